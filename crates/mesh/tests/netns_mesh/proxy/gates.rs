//! SOCKS5 and HTTP CONNECT: real clients, and bad ones.

use super::*;

const SOCKS: &str = "127.0.0.1:1080";
const HTTP: &str = "127.0.0.1:3128";

/// Both gates on their usual ports.
const BOTH: &str = "socks5 = [\"1080\"]\nhttp_connect = [\"3128\"]\ndns = [\"10.9.0.2\"]";

/// Both, for those who know the password.
const GUARDED: &str = "socks5 = [\"0.0.0.0:1080\"]\nhttp_connect = [\"0.0.0.0:3128\"]\nproxy_user = \"me\"\n\
                       proxy_password = \"se:cret\"";

fn start(bed: &Bed, more: &str, engine: &str) -> Proxy {
    Proxy::start(bed, &Wanted { more, engine, ..Wanted::default() })
}

fn curl(bed: &Bed, words: &str) -> Result<String, String> {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "20"]).args(words.split(' '));
    bed.ours.run(&mut command).map_err(|error| error.to_string())
}

/// Answers every connection with one response of HTTP.
fn web(bed: &Bed, address: &str, count: usize) -> std::thread::JoinHandle<()> {
    let listener = listener(&bed.theirs, address);
    std::thread::spawn(move || {
        for _ in 0..count {
            let (mut client, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap() == 1 {
                head.push(byte[0]);
            }
            client.write_all(b"HTTP/1.0 200 OK\r\n\r\nfrom the network").unwrap();
        }
    })
}

/// Answers questions for one name with an address, and for every other that there is none.
fn names(bed: &Bed, name: &'static [u8], address: [u8; 4]) {
    let server = udp(&bed.theirs, "10.9.0.2:53");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = server.recv_from(&mut buffer) {
            let question = &buffer[12..length];
            let is_v4 = question[question.len() - 3] == 1;
            let is_known = question[1..].starts_with(name);
            let mut answer = buffer[..length].to_vec();
            answer[2..4].copy_from_slice(&[0x81, if is_known { 0x80 } else { 0x83 }]);
            if is_v4 && is_known {
                answer[7] = 1;
                answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04");
                answer.extend(address);
            }
            server.send_to(&answer, from).unwrap();
        }
    });
}

/// curl and ncat, by address and by name, in both families; a name is asked of the network's server, once by each gate.
///
/// Fails when: a byte behind the request is lost, a name is looked up on the host, or an address of the other family is
/// not understood.
pub(super) fn real_clients(engine: &str) {
    let (bed, _peer) = bed();
    let _proxy = start(&bed, BOTH, engine);
    names(&bed, b"web", [10, 9, 0, 2]);
    let v4 = web(&bed, "10.9.0.2:80", 6);
    let v6 = web(&bed, "[fd09::2]:80", 2);
    for words in [
        "--socks5-hostname 127.0.0.1:1080 http://web.mesh/",
        "--socks5-hostname 127.0.0.1:1080 http://10.9.0.2/",
        "--socks5-hostname 127.0.0.1:1080 http://[fd09::2]/",
        "--socks5 127.0.0.1:1080 http://10.9.0.2/",
        "--proxytunnel -x http://127.0.0.1:3128 http://web.mesh/",
        "--proxytunnel --proxy1.0 127.0.0.1:3128 http://10.9.0.2/",
        "--proxytunnel -x http://127.0.0.1:3128 http://[fd09::2]/",
    ] {
        assert_eq!(curl(&bed, words), Ok("from the network".to_owned()), "{words}");
        println!("curl {words}: answered");
    }
    // An ordinary request is none for a tunnel.
    let answer = curl(&bed, "-x http://127.0.0.1:3128 -o /dev/null -w %{http_code} http://10.9.0.2/");
    assert_eq!(answer, Ok("405".to_owned()));
    let mut last = connect(&bed.theirs, "10.9.0.2:80");
    last.write_all(b"\r\n\r\n").unwrap();
    v4.join().unwrap();
    v6.join().unwrap();
    for kind in ["socks5", "http"] {
        let service = serve(listener(&bed.theirs, "10.9.0.2:7000"), "ncat ", 1);
        let port = if kind == "http" { HTTP } else { SOCKS };
        let mut command = Command::new("ncat");
        command.args(["--proxy", port, "--proxy-type", kind, "10.9.0.2", "7000"]).stdin(Stdio::piped());
        let mut child = bed.ours.spawn(command.stdout(Stdio::piped())).unwrap();
        child.stdin.take().unwrap().write_all(b"hello").unwrap();
        let mut answer = String::new();
        child.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
        // What came after the client's end came too.
        assert_eq!(answer, "ncat hello", "{kind}");
        assert!(child.wait().unwrap().success());
        service.join().unwrap();
    }
}

/// A password is asked for by both, and the right one is taken.
pub(super) fn passwords() {
    let (bed, _peer) = bed();
    let _proxy = start(&bed, GUARDED, "smoltcp");
    let service = web(&bed, "10.9.0.2:80", 2);
    for proxy in ["--socks5-hostname 192.0.2.1:1080", "--proxytunnel -x http://192.0.2.1:3128"] {
        for login in ["", "--proxy-user me:wrong ", "--proxy-user you:se:cret ", "--proxy-user me: "] {
            let error = curl(&bed, &format!("{login}{proxy} http://10.9.0.2/")).unwrap_err();
            assert!(
                error.contains("97") || error.contains("56") || error.contains("407"),
                "{login}{proxy}: {error}"
            );
        }
        let words = format!("--proxy-user me:se:cret {proxy} http://10.9.0.2/");
        assert_eq!(curl(&bed, &words), Ok("from the network".to_owned()), "{words}");
    }
    service.join().unwrap();
}

/// Says something on a fresh connection and reads so many bytes of the answer; fewer when it ends before.
fn say(bed: &Bed, to: &str, bytes: &[u8], count: usize) -> Vec<u8> {
    let mut client = connect(&bed.ours, to);
    client.write_all(bytes).unwrap();
    let mut answer = vec![0; count];
    let mut length = 0;
    while length < count {
        match client.read(&mut answer[length..]) {
            Ok(0) | Err(_) => break,
            Ok(more) => length += more,
        }
    }
    answer.truncate(length);
    answer
}

/// A request of SOCKS5 for a connection, all in one piece with its greeting.
fn socks_request(command: u8, address: &[u8], port: u16) -> Vec<u8> {
    [&[5, 1, 0, 5, command, 0], address, &port.to_be_bytes()].concat()
}

fn v4(ip: [u8; 4]) -> Vec<u8> {
    [&[1][..], &ip].concat()
}

fn name(name: &str) -> Vec<u8> {
    [&[3, u8::try_from(name.len()).unwrap()][..], name.as_bytes()].concat()
}

/// Fails when: a client reaches what no peer has, or is told the wrong reason.
pub(super) fn where_nobody_goes(engine: &str) {
    let (bed, _peer) = bed();
    let _proxy = start(&bed, BOTH, engine);
    names(&bed, b"rebound", [127, 0, 0, 1]);
    // Something to be reached by mistake.
    let _own = listener(&bed.ours, "0.0.0.0:9");
    for (command, address, port, reply) in [
        (1, v4([127, 0, 0, 1]), 9, 2),
        (1, v4([10, 9, 0, 1]), 9, 2),
        (1, v4([169, 254, 169, 254]), 80, 2),
        (1, v4([0, 0, 0, 0]), 9, 2),
        (1, name("localhost"), 9, 2),
        (1, name("127.0.0.1"), 9, 2),
        (1, name("rebound"), 9, 2),
        (1, v4([192, 0, 2, 1]), 9, 3),
        (1, name("nobody.mesh"), 9, 4),
        (1, v4([10, 9, 0, 2]), 9, 5),
        (1, v4([10, 9, 0, 2]), 0, 1),
        (2, v4([10, 9, 0, 2]), 9, 7),
        (9, v4([10, 9, 0, 2]), 9, 7),
        (1, vec![2, 1, 2, 3, 4], 9, 8),
    ] {
        let answer = say(&bed, SOCKS, &socks_request(command, &address, port), 12);
        assert_eq!(answer.get(..4), Some(&[5, 0, 5, reply][..]), "{command} {address:?}:{port}");
    }
    for (target, status) in [
        ("127.0.0.1:9", 403),
        ("localhost:9", 403),
        ("10.9.0.1:9", 403),
        ("192.0.2.1:9", 502),
        ("nobody.mesh:9", 502),
        ("10.9.0.2:9", 502),
        ("10.9.0.2", 400),
    ] {
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        let answer = String::from_utf8(say(&bed, HTTP, request.as_bytes(), 1000)).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }
}

fn open_files(proxy: &Proxy) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", proxy.child.id())).unwrap().count()
}

/// Those who are slow, silent, endless, of another protocol, or gone after each byte: others are served meanwhile, and
/// nothing stays behind.
pub(super) fn bad_clients() {
    let (bed, _peer) = bed();
    let proxy = start(&bed, BOTH, "");
    let before = open_files(&proxy);
    let idle: Vec<TcpStream> = (0..100)
        .map(|number| {
            let mut client = connect(&bed.ours, if number % 2 == 0 { SOCKS } else { HTTP });
            client.write_all(if number % 2 == 0 { &[5, 200, 0] } else { b"CONNECT 10.9" }).unwrap();
            client
        })
        .collect();
    let whole = socks_request(1, &v4([10, 9, 0, 2]), 9);
    let head = b"CONNECT 10.9.0.2:9 HTTP/1.0\r\nA: b\r\n\r\n";
    for (to, bytes) in [(SOCKS, &whole[..]), (HTTP, &head[..])] {
        for length in 0..bytes.len() {
            connect(&bed.ours, to).write_all(&bytes[..length]).unwrap();
        }
    }
    for (to, garbage, wanted) in [
        (SOCKS, &b"GET / HTTP/1.0\r\n\r\n"[..], &b""[..]),
        (SOCKS, &[4, 1, 0, 80, 10, 9, 0, 2, 0], b""),
        (SOCKS, &[5, 1, 2], b"\x05\xff"),
        (HTTP, &[5, 1, 0], b"HTTP/1.1 400"),
        (HTTP, &[0x16, 3, 1, 2, 0, 1], b"HTTP/1.1 400"),
        (HTTP, b"CONNECT a:1 HTTP/1.1\nHost: a\n\n\r\n\r\n", b"HTTP/1.1 400"),
    ] {
        assert_eq!(say(&bed, to, garbage, wanted.len().max(1)), wanted, "{garbage:?}");
    }
    // A head without an end is one too many at 8 KiB.
    let mut endless = connect(&bed.ours, HTTP);
    endless.write_all(b"CONNECT a:1 HTTP/1.1\r\n").unwrap();
    let mut sent = 0;
    while sent < 64 << 20 && endless.write_all(&b"A: aaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(32)).is_ok() {
        sent += 1024;
    }
    assert!(sent < 64 << 20, "it is cut off");
    let service = serve(listener(&bed.theirs, "10.9.0.2:7000"), "still ", 1);
    let mut client = connect(&bed.ours, SOCKS);
    // Byte by byte, with the payload right behind.
    for byte in [socks_request(1, &v4([10, 9, 0, 2]), 7000), b"here".to_vec()].concat() {
        client.write_all(&[byte]).unwrap();
    }
    client.read_exact(&mut [0; 12]).unwrap();
    assert_eq!(ask(client, "").unwrap(), "still here");
    service.join().unwrap();
    // Those that say nothing more are sent away in their time, and nothing of anybody is left.
    for mut client in idle {
        client.read_to_end(&mut Vec::new()).ok();
    }
    wait_for("descriptors", || (open_files(&proxy) <= before).then_some(())).unwrap();
}

/// Fails when: clients of one gate whose targets do not answer keep those of another waiting.
pub(super) fn dead_targets() {
    let (bed, _peer) = bed();
    let _proxy = start(&bed, BOTH, "");
    let silence =
        "table inet silence {\n chain in {\n type filter hook input priority 0\n tcp dport 9 drop\n }\n}\n";
    bed.theirs.nft(silence).unwrap();
    let silent = socks_request(1, &v4([10, 9, 0, 2]), 9);
    let _waiting: Vec<TcpStream> = (0..600)
        .map(|_| {
            let mut client = connect(&bed.ours, SOCKS);
            client.write_all(&silent).unwrap();
            client
        })
        .collect();
    let service = serve(listener(&bed.theirs, "10.9.0.2:7000"), "still ", 3);
    for _ in 0..3 {
        let mut client = connect(&bed.ours, HTTP);
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.write_all(b"CONNECT 10.9.0.2:7000 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let answer = ask(client, "here").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nstill here"), "{answer:?}");
    }
    service.join().unwrap();
}

/// Datagrams of SOCKS5: by address in both families and by name, several targets of one client, none of a stranger's, no
/// fragment; the end of the connection is the end.
pub(super) fn associations(engine: &str) {
    let (bed, _peer) = bed();
    let proxy = start(&bed, BOTH, engine);
    let before = open_files(&proxy);
    names(&bed, b"echo", [10, 9, 0, 2]);
    let services = [udp(&bed.theirs, "10.9.0.2:7000"), udp(&bed.theirs, "[fd09::2]:7000")];
    let mut control = connect(&bed.ours, SOCKS);
    control.write_all(&socks_request(3, &v4([0, 0, 0, 0]), 0)).unwrap();
    let mut answer = [0; 12];
    control.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..10], [5, 0, 5, 0, 0, 1, 127, 0, 0, 1]);
    let relay = format!("127.0.0.1:{}", u16::from_be_bytes([answer[10], answer[11]]));
    let client = udp_to(&bed.ours, &relay);
    // It is not theirs whose noise comes first.
    udp_to(&bed.ours, &relay).send(&[1, 2, 3]).unwrap();
    let v6 = [&[4, 0xfd, 9][..], &[0; 13], &[2]].concat();
    let mut buffer = vec![0; 65_536];
    let big = vec![7; 20_000];
    for (to, service, payload, bytes) in [
        (v4([10, 9, 0, 2]), 0, &b"one"[..], 10),
        (v6, 1, b"two", 22),
        (name("echo.mesh"), 0, b"three", 10),
        (v4([10, 9, 0, 2]), 0, b"", 10),
        (v4([10, 9, 0, 2]), 0, &big, 10),
    ] {
        let whole = |fragment: u8| [&[0, 0, fragment], &to[..], &7000_u16.to_be_bytes(), payload].concat();
        // Fragments, and who does not begin as it should, are heard by nobody.
        client.send(&whole(1)).unwrap();
        client.send(&[1, 2, 3]).unwrap();
        client.send(&whole(0)).unwrap();
        let (length, from) = services[service].recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], payload);
        services[service].send_to(&[b"answer ", payload].concat(), from).unwrap();
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[bytes..length], [b"answer ", payload].concat(), "{to:?}");
        assert_eq!(&buffer[..3], [0; 3]);
    }
    // Somebody else on this host is nobody's client.
    let stranger = udp_to(&bed.ours, &relay);
    stranger.send(&[&[0, 0, 0], &v4([10, 9, 0, 2])[..], &7000_u16.to_be_bytes(), b"mine"].concat()).unwrap();
    let forbidden = [&[0, 0, 0], &v4([127, 0, 0, 1])[..], &7000_u16.to_be_bytes(), b"own"].concat();
    client.send(&forbidden).unwrap();
    client.send(&[&[0, 0, 0], &v4([10, 9, 0, 2])[..], &7000_u16.to_be_bytes(), b"last"].concat()).unwrap();
    let (length, _) = services[0].recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"last", "the stranger's did not come before");
    // Many targets: the first ones give way.
    for port in 7001..7101_u16 {
        client.send(&[&[0, 0, 0], &v4([10, 9, 0, 2])[..], &port.to_be_bytes(), b"x"].concat()).unwrap();
    }
    client.send(&[&[0, 0, 0], &v4([10, 9, 0, 2])[..], &7000_u16.to_be_bytes(), b"again"].concat()).unwrap();
    let (length, _) = services[0].recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"again");
    assert!(open_files(&proxy) < before + 40, "{} of {before}", open_files(&proxy));
    drop(control);
    wait_for("descriptors", || (open_files(&proxy) <= before).then_some(())).unwrap();
}
