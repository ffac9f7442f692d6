//! Brokers are the other ends of real sockets.

use tokio::task::JoinSet;

use super::*;
use crate::wire::Lends;

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
    link.await_next(listener);
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

/// A gateway says that a program may start, and dies.
///
/// Fails when the next one is asked to start it once more, or whoever asked waits for it.
#[tokio::test]
async fn what_may_have_started_is_not_started_twice() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("sock");
    let (first, ours) = Channel::pair().expect("a pair");
    let first = watched_channel(first).expect("a broker");
    let link = Arc::new(Link::new(ours).expect("a link"));
    link.await_next(Channel::listen(&path).expect("a listener"));
    let mut tasks = JoinSet::new();
    let reader = Arc::clone(&link);
    tasks.spawn(async move { reader.read().await });
    let open = |channel| Request::Open {
        channel,
        what: wire::What::Command,
        terminal: None,
        environment: Vec::new(),
        inside: false,
        first: true,
        can_record: false,
        lends: Lends::default(),
    };
    let mut asking = JoinSet::new();
    for channel in [1, 2] {
        let asker = Arc::clone(&link);
        let request = open(channel);
        asking.spawn(async move { (channel, asker.ask(request, b"echo x >>f").await.is_err()) });
        let Asked { id, .. } = heard(&first).await;
        if channel == 1 {
            let starting = wire::encode(&Answered { id, reply: Reply::Starting, recording: None }, &[])
                .expect("a packet");
            send(&first, &starting, &[]).await.expect("told");
        }
    }
    drop(first);
    let lost = asking.join_next().await.expect("an answer").expect("no panic");
    assert_eq!(lost, (1, true), "the one that may run is given up at once");
    let next = watched_channel(Channel::connect(&path).expect("connected")).expect("a broker");
    assert!(matches!(heard(&next).await.request, Request::Resume { .. }));
    assert_eq!(heard(&next).await.request, open(2), "and the other one is asked for again");
    link.closed(9, closed(9)).await;
    assert_eq!(heard(&next).await.request, closed(9), "nothing else was asked");
}

/// A gateway lets somebody in and ends at once, before whoever has asked has looked at the answer.
///
/// Fails when the session does not wait for the next one.
#[tokio::test]
async fn who_is_let_in_by_the_last_word_of_a_gateway_is_in() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("sock");
    let (first, ours) = Channel::pair().expect("a pair");
    let link = Link::new(ours).expect("a link");
    let first = watched_channel(first).expect("a broker");
    let reply = Reply::Verdict {
        accepted: true,
        methods: Vec::new(),
        is_partial: false,
        welcome: String::new(),
        lends: Lends::default(),
    };
    let verdict = wire::encode(&Answered { id: 0, reply, recording: None }, &[]).expect("a packet");
    send(&first, &verdict, &[Channel::listen(&path).expect("a listener")]).await.expect("told");
    drop(first);
    let next = watched_channel(Channel::connect(&path).expect("connected")).expect("a broker");
    tokio::select! {
        () = link.read() => panic!("there will be no other"),
        told = heard(&next) => assert!(matches!(told.request, Request::Resume { .. })),
    }
}

/// A gateway that ends has answered a question, and not read the one after it.
///
/// Fails when the answer is lost to the error that the end of such a gateway is.
#[tokio::test]
async fn the_last_answer_counts_whatever_was_left_unread() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("sock");
    let (first, ours) = Channel::pair().expect("a pair");
    let first = watched_channel(first).expect("a broker");
    let link = Arc::new(Link::new(ours).expect("a link"));
    link.await_next(Channel::listen(&path).expect("a listener"));
    let asker = Arc::clone(&link);
    let open = Request::Open {
        channel: 1,
        what: wire::What::Command,
        terminal: None,
        environment: Vec::new(),
        inside: false,
        first: true,
        can_record: false,
        lends: Lends::default(),
    };
    let opened = tokio::spawn(async move { asker.ask(open, b"true").await });
    let Asked { id, .. } = heard(&first).await;
    link.tell(closed(2)).await;
    for reply in [Reply::Starting, Reply::Opened] {
        let answer = wire::encode(&Answered { id, reply, recording: None }, &[]).expect("a packet");
        send(&first, &answer, &[]).await.expect("told");
    }
    drop(first);
    let reader = Arc::clone(&link);
    let reading = tokio::spawn(async move { reader.read().await });
    let (reply, _) = opened.await.expect("no panic").expect("an answer");
    assert_eq!(reply, Reply::Opened);
    reading.abort();
}

/// Fails when a question that fits into no packet is waited for, or holds up the others.
#[tokio::test]
async fn a_question_that_is_too_long_has_no_answer_at_once() {
    let (broker, ours) = Channel::pair().expect("a pair");
    let broker = watched_channel(broker).expect("a broker");
    let link = Link::new(ours).expect("a link");
    let long = Request::Offer { login: "x".repeat(1 << 20), key: String::new() };
    assert!(link.ask(long, &[]).await.is_err());
    assert!(link.state().waiting.is_empty());
    link.closed(3, closed(3)).await;
    assert_eq!(heard(&broker).await.request, closed(3));
}

/// Fails when files that are told of take the room of the ends of programs, or are told after them.
#[tokio::test]
async fn files_are_kept_for_the_next_broker_within_bounds() {
    let (first, ours) = Channel::pair().expect("a pair");
    let link = Link::new(ours).expect("a link");
    drop(first);
    link.state().channel = None;
    let file = |channel| Request::Transferred {
        channel,
        path: "x".to_owned(),
        reads: true,
        writes: false,
        bytes_in: 0,
        bytes_out: 1,
        millis: 0,
        end: wire::FileEnd::Closed,
    };
    for _ in 0..1000 {
        link.tell(file(1)).await;
    }
    for channel in 0..128 {
        link.closed(channel, closed(channel)).await;
    }
    let untold = link.state().untold.clone();
    assert_eq!(untold.len(), 256);
    assert_eq!((&untold[0], &untold[255]), (&file(1), &closed(127)));
}

/// Fails when what had no room is lost in silence, counted twice or told out of its turn, or a forward that is open is counted
/// with it.
#[tokio::test]
async fn what_had_no_room_is_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("sock");
    let (first, ours) = Channel::pair().expect("a pair");
    let link = Arc::new(Link::new(ours).expect("a link"));
    link.await_next(Channel::listen(&path).expect("a listener"));
    drop(first);
    let reader = Arc::clone(&link);
    let reading = tokio::spawn(async move { reader.read().await });
    while link.state().channel.is_some() {
        tokio::task::yield_now().await;
    }
    let end = |number| Forwarded {
        number: Some(number),
        way: ForwardWay::Local,
        target: "h:1".to_owned(),
        peer: String::new(),
        bytes_in: 0,
        bytes_out: 0,
        millis: 0,
        end: wire::ForwardEnd::Closed,
        reason: None,
    };
    let open = link.begin_forward(ForwardWay::Local, "h:1", "").await;
    for _ in 0..200 {
        let number = link.begin_forward(ForwardWay::Local, "h:1", "").await;
        link.tell(Request::Forwarded(end(number))).await;
    }
    for lost in [Some(72), None] {
        let next = watched_channel(Channel::connect(&path).expect("connected")).expect("a broker");
        assert!(matches!(heard(&next).await.request, Request::Resume { .. }));
        assert!(matches!(heard(&next).await.request, Request::Forwarding(one) if one.number == open));
        if let Some(lines) = lost {
            for _ in 0..128 {
                assert!(matches!(heard(&next).await.request, Request::Forwarded(_)));
            }
            assert_eq!(heard(&next).await.request, Request::Lost { lines });
        }
        link.tell(closed(9)).await;
        assert_eq!(heard(&next).await.request, closed(9), "nothing else was told");
        drop(next);
        while link.state().channel.is_some() {
            tokio::task::yield_now().await;
        }
    }
    reading.abort();
}
