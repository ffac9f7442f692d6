//! What a program in the instance may say of sockets, and what comes of more.

use portway_proto::guest::Inbox;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::frames::written;
use super::*;

/// Fails when what a client does not read could be more than is said.
#[test]
fn windows_are_bounded_together() {
    let kib = [0, 15, 16, 63, 64, 1023].map(|before| window(before) >> 10);
    assert_eq!(kib, [1024, 1024, 128, 128, 32, 32]);
    let all: u32 = (0..400).map(window).sum();
    assert!(all <= 33 << 20, "{all}");
}

/// Somebody who comes and goes, for ever, at a listener of the client's: what is to be said to each waits for a program
/// that hears nothing.
///
/// Fails when that grows without bound.
#[tokio::test]
async fn who_says_more_than_it_hears_is_cut_off() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 10);
    let guest = Guest::adopt(ours);
    let asking = tokio::spawn(async move {
        let at = Place::Tcp { host: b"localhost".to_vec(), port: 7000 };
        guest.listen(at).await
    });
    let mut inbox = Inbox::default();
    let listener = loop {
        if let Some(frame) = inbox.next().expect("a frame") {
            let Ok(Frame::Socket(Socket::Listen { listener, .. })) = Frame::read(frame) else {
                panic!("another frame")
            };
            break listener;
        }
        let count = theirs.read(inbox.room()).await.expect("bytes");
        inbox.filled(count);
    };
    let say = |frame: Frame<'_>| written(&frame).expect("it is short");
    let opened = say(Frame::Socket(Socket::Listening { listener, port: 7000 }));
    theirs.write_all(&opened).await.expect("it is heard");
    let _listener = asking.await.expect("it ends").expect("a listener");
    for number in 0..10_000 {
        let channel = ACCEPTED + number;
        let source = b"192.0.2.1".to_vec();
        let come = say(Frame::Socket(Socket::Accepted { listener, channel, source, port: 9, credit: 0 }));
        let pair = [come, say(Frame::Closed { channel })].concat();
        if theirs.write_all(&pair).await.is_err() {
            assert!(number as usize >= 2 * COME_MAX_COUNT, "{number} is not too many");
            return;
        }
        // Who is to be turned away is told now, if ever.
        tokio::task::yield_now().await;
    }
    panic!("it is heard for ever");
}
