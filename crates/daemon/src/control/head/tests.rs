use super::*;

fn status(head: &str) -> u16 {
    match is_complete(head.as_bytes()) {
        Ok(true) => 200,
        Ok(false) => 0,
        Err(refused) => refused.status,
    }
}

#[test]
fn what_clients_send_is_accepted() {
    for head in [
        "GET /1.0 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /1.0 HTTP/1.0\r\n\r\n",
        "POST /1.0/devices HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
        "POST /1.0/devices HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n0\n",
        "PROPFIND /1.0?a=b HTTP/1.1\r\nX:\ty \r\n\r\n",
    ] {
        assert_eq!(status(head), 200, "{head:?}");
        let before = head.find("\r\n\r\n").unwrap() + 4;
        for end in 0..before {
            assert_eq!(status(&head[..end]), 0, "{:?}", &head[..end]);
        }
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let with = |field: &str| format!("GET / HTTP/1.1\r\n{field}\r\n\r\n");
    for (head, expected) in [
        ("GET / HTTP/1.1\nHost: x\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\rHost: x\r\n\r\n".to_owned(), 400),
        ("\nGET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("\r\nGET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET  / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1 \r\n\r\n".to_owned(), 400),
        ("GET / HTTP/2.0\r\n\r\n".to_owned(), 505),
        ("GET http://x/1.0 HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("OPTIONS * HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("CONNECT x:1 HTTP/1.1\r\n\r\n".to_owned(), 405),
        ("GET /\u{1} HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /ü HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("G@T / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (with("A: b\r\n c"), 400),
        (with("A : b"), 400),
        (with(": b"), 400),
        (with("A"), 400),
        (with("A: \u{0}"), 400),
        (with("Content-Length: -1"), 400),
        (with("Content-Length: +1"), 400),
        (with("Content-Length: 1\r\nContent-Length: 1"), 400),
        (with("Content-Length: 1, 1"), 400),
        (with("Content-Length: 18446744073709551616"), 413),
        (with("Content-Length: 16777217"), 413),
        (with("Content-Length: 1\r\nTransfer-Encoding: chunked"), 400),
        (with("Transfer-Encoding: gzip, chunked"), 400),
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400),
        (with(&"A: b\r\n".repeat(101)), 431),
        (with(&format!("A: {}", "b".repeat(17 << 10))), 431),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(9 << 10)), 414),
    ] {
        assert_eq!(status(&head), expected, "{:?}", &head[..head.len().min(80)]);
    }
    assert_eq!(status(&"a".repeat(1 << 20)), 414, "without any end");
    assert_eq!(is_complete(b"GET / HTTP/1.1\r\nA: \xff\r\n\r\n").unwrap_err().status, 400);
}
