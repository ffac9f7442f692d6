//! One peer that wants every place there is.

use std::io::ErrorKind;

use super::rules::{folder, status};
use super::*;
use crate::peers::{Second, name};

/// Files that each process may have, and the places that makes.
const FILES: u64 = 512;
const PLACES: usize = 128;

/// Connects until `count` are served, or one is refused; those that are served.
fn crowd(from: &Netns, count: usize) -> (Vec<TcpStream>, usize) {
    let (mut served, mut refused) = (Vec::new(), 0);
    for _ in 0..count {
        let to: SocketAddr = "10.9.0.1:80".parse().unwrap();
        let asked = || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"x").and_then(|()| stream.read_exact(&mut [0])).map(|()| stream)
        };
        // The reset may come before anything was said.
        match from.enter(asked).unwrap() {
            Ok(stream) => served.push(stream),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                refused += 1;
            }
        }
    }
    (served, refused)
}

/// A peer opens connections and keeps them: it gets as many as there are places left, others are reset and counted, and
/// another peer is served all the same.
///
/// Fails when: one peer can take every place, who is refused is left waiting, or places are not given back.
pub(super) fn a_peer_has_its_share(engine: &str) {
    let (bed, peer) = bed();
    let second = Second::new(&bed, &name());
    let dir = folder();
    let more = format!(
        "[[peers]]\npublic_key = \"{}\"\nallowed_ips = [\"10.1.0.0/16\"]\nendpoint = \"192.0.3.2:51820\"",
        second.key.public()
    );
    let wanted = Wanted {
        ingress: &["tcp:80:127.0.0.1:8000"],
        more: &more,
        files: FILES,
        engine,
        dir: Some(dir.path()),
        ..Wanted::default()
    };
    let _proxy = Proxy::start(&bed, &wanted);
    let service = listener(&bed.ours, "127.0.0.1:8000");
    std::thread::spawn(move || {
        let mut clients = Vec::new();
        while let Ok((mut client, _)) = service.accept() {
            // One that was reset before is nobody's.
            if client.read_exact(&mut [0]).and_then(|()| client.write_all(b"y")).is_ok() {
                clients.push(client);
            }
        }
    });
    let shown = |key: &portway_mesh::spec::PrivateKey| {
        let (status, key) = (status(dir.path()), key.public().to_string());
        let peer = status.peers.into_iter().find(|peer| peer.public_key == key).unwrap();
        (peer.connections_now, peer.connections_refused)
    };
    let (loud, refused) = crowd(&peer.netns, PLACES);
    assert_eq!((loud.len(), refused), (PLACES / 2, PLACES / 2));
    assert_eq!(shown(&bed.peer), (64, 64));
    let (quiet, refused) = crowd(&second.peer.netns, PLACES / 4);
    assert_eq!((quiet.len(), refused), (PLACES / 4, 0));
    assert_eq!(shown(&second.key), (32, 0));
    for stream in loud {
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    }
    wait_for("places", || Some(()).filter(|()| shown(&bed.peer) == (0, 64))).unwrap();
    let (again, refused) = crowd(&peer.netns, 40);
    assert_eq!((again.len(), refused), (40, 0));
}
