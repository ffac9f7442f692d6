use proptest::prelude::*;

use super::*;

/// Feeds a head in pieces; what was read, and how many bytes were taken.
fn hear(text: &[u8], step: usize) -> (Option<Result<String, Malformed>>, usize) {
    let (mut head, mut taken) = (Head::default(), 0);
    for piece in text.chunks(step) {
        match head.take(piece) {
            Err(error) => return (Some(Err(error)), taken),
            Ok(took) => {
                taken += took.count;
                if took.is_whole {
                    let read = head.read().map(|connect| {
                        format!("{} {}", connect.target, connect.authorization.unwrap_or("-"))
                    });
                    return (Some(read), taken);
                }
                assert_eq!(took.count, piece.len());
            }
        }
    }
    (None, taken)
}

/// Fails when: a field is read loosely, or payload behind the empty line is taken.
#[test]
fn heads() {
    let table: &[(&str, Result<&str, Malformed>)] = &[
        ("CONNECT db.mesh:5432 HTTP/1.1\r\nHost: db.mesh:5432\r\n\r\n", Ok("db.mesh:5432 -")),
        ("CONNECT 10.9.0.2:80 HTTP/1.0\r\n\r\n", Ok("10.9.0.2:80 -")),
        ("\r\nCONNECT 10.9.0.2:80 HTTP/1.0\r\n\r\n", Ok("10.9.0.2:80 -")),
        (
            "CONNECT [fd09::2]:443 HTTP/1.1\r\nHOST: x\r\nproxy-authorization:  Basic dTpw \r\n\r\n",
            Ok("[fd09::2]:443 Basic dTpw"),
        ),
        ("CONNECT [::ffff:127.0.0.1]:443 HTTP/1.0\r\n\r\n", Ok("127.0.0.1:443 -")),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", Err(Malformed::Method)),
        ("connect a:1 HTTP/1.1\r\nHost: x\r\n\r\n", Err(Malformed::Method)),
        ("CONNECT a:1 HTTP/2.0\r\nHost: x\r\n\r\n", Err(Malformed::RequestLine)),
        ("CONNECT  a:1 HTTP/1.1\r\nHost: x\r\n\r\n", Err(Malformed::RequestLine)),
        ("CONNECT a:1\r\n\r\n", Err(Malformed::RequestLine)),
        ("C@T a:1 HTTP/1.1\r\nHost: x\r\n\r\n", Err(Malformed::RequestLine)),
        ("CONNECT a HTTP/1.0\r\n\r\n", Err(Malformed::Target)),
        ("CONNECT a:0 HTTP/1.0\r\n\r\n", Err(Malformed::Target)),
        ("CONNECT a:65536 HTTP/1.0\r\n\r\n", Err(Malformed::Target)),
        ("CONNECT a:+80 HTTP/1.0\r\n\r\n", Err(Malformed::Target)),
        ("CONNECT u@a:80 HTTP/1.0\r\n\r\n", Err(Malformed::Target)),
        ("CONNECT http://a:80/ HTTP/1.0\r\n\r\n", Err(Malformed::Target)),
        ("CONNECT fd09::2:80 HTTP/1.0\r\n\r\n", Err(Malformed::Target)),
        ("CONNECT [fd09::2:80 HTTP/1.0\r\n\r\n", Err(Malformed::Target)),
        ("CONNECT [10.9.0.2]:80 HTTP/1.0\r\n\r\n", Err(Malformed::Target)),
        ("CONNECT :80 HTTP/1.0\r\n\r\n", Err(Malformed::Target)),
        ("CONNECT a:80 HTTP/1.1\r\n\r\n", Err(Malformed::Host)),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Err(Malformed::Host)),
        ("CONNECT a:80 HTTP/1.0\r\nA : b\r\n\r\n", Err(Malformed::Field)),
        ("CONNECT a:80 HTTP/1.0\r\nA: b\r\n folded\r\n\r\n", Err(Malformed::Field)),
        ("CONNECT a:80 HTTP/1.0\r\nA: b\nC: d\r\n\r\n", Err(Malformed::Field)),
        ("CONNECT a:80 HTTP/1.0\r\nno field\r\n\r\n", Err(Malformed::Field)),
        (
            "CONNECT a:80 HTTP/1.0\r\nProxy-Authorization: a\r\nProxy-Authorization: a\r\n\r\n",
            Err(Malformed::Field),
        ),
    ];
    for (text, wanted) in table {
        let with_payload = [text.as_bytes(), b"\x16\x03payload\r\n\r\n"].concat();
        for step in [1, 3, 10_000] {
            let (heard, taken) = hear(&with_payload, step);
            assert_eq!(heard, Some(wanted.map(str::to_owned)), "{text:?}");
            assert_eq!(taken, text.len(), "{text:?}");
        }
        for length in 0..text.len() {
            assert_eq!(hear(&text.as_bytes()[..length], 10_000).0, None, "{length} of {text:?}");
        }
    }
}

/// Another protocol is known by its first bytes, and a head without an end does not grow.
#[test]
fn what_is_no_head() {
    for bytes in [&b"\x05\x01\x00"[..], b"\x16\x03\x01\x02\x00", b"CONNECT a\0:80"] {
        assert_eq!(hear(bytes, 1).0, Some(Err(Malformed::NotHttp)), "{bytes:?}");
    }
    let endless = [b"CONNECT a:80 HTTP/1.0\r\n".to_vec(), b"A: b\r\n".repeat(2000)].concat();
    let (heard, taken) = hear(&endless, 7);
    assert_eq!(heard, Some(Err(Malformed::TooLong)));
    assert!(taken <= HEAD_MAX_BYTES);
}

/// Fails when: an answer is no message of HTTP, or lets the connection go on.
#[test]
fn answers() {
    for (status, code) in [
        (Status::BadRequest, 400),
        (Status::Forbidden, 403),
        (Malformed::Method.status(), 405),
        (Status::AuthenticationRequired, 407),
        (Status::RequestTimeout, 408),
        (Malformed::TooLong.status(), 431),
        (Status::BadGateway, 502),
        (Status::GatewayTimeout, 504),
    ] {
        let answer = status.answer();
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
        assert!(answer.ends_with("\r\n\r\n") && answer.contains("Connection: close\r\n"), "{answer}");
        assert_eq!(answer.contains("Allow: CONNECT\r\n"), code == 405);
        assert_eq!(answer.contains("Proxy-Authenticate: Basic realm="), code == 407);
    }
    assert_eq!(Status::Established.answer(), "HTTP/1.1 200 Connection established\r\n\r\n");
}

proptest! {
    /// Whatever comes, in whatever pieces, the same is read.
    #[test]
    fn pieces_make_no_difference(text in "(CONNECT |GET )?[a-z0-9:\\[\\]. ]{0,20}( HTTP/1\\.[01])?(\r\n|\n|[ -~]){0,40}\r\n\r\n.{0,9}", step in 1_usize..9) {
        prop_assert_eq!(hear(text.as_bytes(), 10_000).0, hear(text.as_bytes(), step).0);
    }
}
