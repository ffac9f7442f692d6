//! Brokers are the other ends of real sockets.

use tokio::task::JoinSet;

use super::*;

/// What a broker is told or asked, the next packet.
async fn heard(broker: &AsyncFd<Channel>) -> Asked {
    let mut packet = Vec::new();
    receive(broker, &mut packet).await.expect("a packet");
    wire::decode(&packet).expect("a question").0
}

fn closed(channel: u32) -> Request {
    Request::Closed { channel, status: None, bytes_in: 0, bytes_out: 0 }
}

/// Questions are put all the time while the broker changes. Fails when: one of them, or the end of a program, reaches the
/// next broker before it has heard who resumes.
#[tokio::test]
async fn a_new_broker_is_told_before_it_is_asked() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("sock");
    let listener = Channel::listen(&path).expect("a listener");
    let (first, ours) = Channel::pair().expect("a pair");
    let link = Arc::new(Link::new(ours).expect("a link"));
    link.await_next(listener).expect("a listener");
    let mut tasks = JoinSet::new();
    let reader = Arc::clone(&link);
    tasks.spawn(async move { reader.read().await });
    drop(first);
    while link.state().channel.is_some() {
        tokio::task::yield_now().await;
    }
    link.closed(7, closed(7)).await;
    let asker = Arc::clone(&link);
    tasks.spawn(async move {
        let mut asking = JoinSet::new();
        for _ in 0..1000 {
            let link = Arc::clone(&asker);
            let offer = Request::Offer { login: "c1".to_owned(), key: String::new() };
            asking.spawn(async move { link.ask(offer, &[]).await });
            tokio::task::yield_now().await;
        }
        asking.join_all().await;
    });
    tokio::task::yield_now().await;
    let next = watched_channel(Channel::connect(&path).expect("connected")).expect("a broker");
    assert!(matches!(heard(&next).await.request, Request::Resume { .. }));
    assert_eq!(heard(&next).await.request, closed(7));
    for _ in 0..1000 {
        assert!(matches!(heard(&next).await.request, Request::Offer { .. }));
    }
    assert!(link.state().untold.is_empty());
}
