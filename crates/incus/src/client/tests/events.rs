//! The event stream against a scripted server.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::*;

const STARTED: &str = r#"{"type":"lifecycle","project":"default",
    "metadata":{"action":"instance-started","source":"/1.0/instances/c1","context":null}}"#;

/// A server that gives the opened websocket to `script`.
fn socket<T: Send + 'static, F>(
    script: impl FnOnce(WebSocketStream<UnixStream>) -> F + Send + 'static,
) -> Scripted<T>
where
    F: Future<Output = T> + Send,
{
    Scripted::new(|stream| async move { script(accept_async(stream).await.expect("handshake")).await })
}

async fn hold<S>(stream: S) {
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(stream);
}

#[tokio::test]
async fn events_come_through_and_noise_does_not() {
    let scripted = socket(|mut stream| async move {
        let exec = STARTED.replace("instance-started", "instance-exec");
        for text in [exec.as_str(), STARTED] {
            stream.send(Message::text(text)).await.expect("send");
        }
        stream.send(Message::binary(STARTED.as_bytes().to_vec())).await.expect("send");
        hold(stream).await;
    });
    let mut events = scripted.client().events().await.expect("open");
    for _ in 0..2 {
        let event = events.next().await.expect("event");
        assert_eq!((event.action.as_str(), event.name.as_str()), ("instance-started", "c1"));
    }
}

#[tokio::test]
async fn pings_are_answered() {
    let scripted = socket(|mut stream| async move {
        stream.send(Message::Ping(b"keepalive".to_vec().into())).await.expect("send");
        let answer = stream.next().await.expect("open").expect("answer");
        assert_eq!(answer, Message::Pong(b"keepalive".to_vec().into()));
        stream.send(Message::text(STARTED)).await.expect("send");
        hold(stream).await;
    });
    let mut events = scripted.client().events().await.expect("open");
    assert_eq!(events.next().await.expect("event").name, "c1");
}

#[tokio::test]
async fn a_quiet_server_that_lives_is_kept() {
    let scripted = socket(|mut stream| async move {
        let quiet = tokio::time::Instant::now();
        // Reading is what answers the client's pings.
        while quiet.elapsed() < Duration::from_millis(900) {
            let _ = tokio::time::timeout(Duration::from_millis(50), stream.next()).await;
        }
        stream.send(Message::text(STARTED)).await.expect("send");
        hold(stream).await;
    });
    let mut events = scripted.client().events().await.expect("open");
    assert_eq!(events.next().await.expect("event").name, "c1");
}

#[tokio::test]
async fn a_dead_server_is_given_up_even_when_the_caller_keeps_cancelling() {
    let scripted = socket(hold);
    let mut events = scripted.client().events().await.expect("open");
    let begin = tokio::time::Instant::now();
    let error = loop {
        let turn = tokio::time::timeout(Duration::from_millis(10), events.next()).await;
        if let Ok(answer) = turn {
            break answer.expect_err("silence");
        }
        assert!(begin.elapsed() < Duration::from_secs(4), "never given up");
    };
    assert!(matches!(error, IncusError::TimedOut { .. }), "{error:?}");
    assert!(begin.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn the_end_of_the_stream_is_told() {
    let closing = socket(|mut stream| async move { stream.close(None).await.expect("close") });
    let mut events = closing.client().events().await.expect("open");
    let error = events.next().await.expect_err("closed");
    assert!(matches!(error, IncusError::StreamEnded { .. }), "{error:?}");
    let dying = socket(|stream| async move { drop(stream) });
    let mut events = dying.client().events().await.expect("open");
    let error = events.next().await.expect_err("gone");
    assert!(matches!(error, IncusError::StreamEnded { .. }), "{error:?}");
}

#[tokio::test]
async fn a_huge_event_is_refused() {
    let scripted = socket(|mut stream| async move {
        let _ = stream.send(Message::text(" ".repeat(1 << 20))).await;
        hold(stream).await;
    });
    let mut events = scripted.client().events().await.expect("open");
    let error = events.next().await.expect_err("too large");
    assert!(matches!(error, IncusError::TooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn garbage_ends_the_stream() {
    let scripted = socket(|mut stream| async move {
        stream.send(Message::text("hello")).await.expect("send");
        hold(stream).await;
    });
    let mut events = scripted.client().events().await.expect("open");
    let error = events.next().await.expect_err("no event");
    assert!(matches!(error, IncusError::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn a_refused_handshake_is_an_error_at_once() {
    let forbidden = json("403 Forbidden", NOT_FOUND).client().events().await;
    assert!(matches!(forbidden, Err(IncusError::Denied { .. })));
    let plain = json("200 OK", SERVER).client().events().await;
    assert!(matches!(plain, Err(IncusError::Protocol { .. })));
    let silent = Scripted::new(hold);
    let answer = silent.client().events().await;
    assert!(matches!(answer, Err(IncusError::TimedOut { .. })));
}
