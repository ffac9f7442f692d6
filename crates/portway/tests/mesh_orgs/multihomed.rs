//! A registrar with several addresses.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use portway_mesh::stun::Transaction;
use portway_testkit::{is_root, wait_for};

use crate::network::{Field, Way};

/// Fails when: an answer of STUN comes from another address than the one that was asked, in either family: who asks hears
/// nobody else, nor does a translation of addresses let anybody else in.
#[test]
fn answers_come_from_where_it_was_asked() {
    if !is_root() {
        return;
    }
    let field = Field::new(Way::Direct);
    let (registrar, one) = (&field.registrar, &field.hosts[0]);
    registrar.ip("addr add 192.0.2.253/24 dev one").unwrap();
    for address in ["2001:db8::fe", "2001:db8::fd"] {
        registrar.ip(&format!("addr add {address}/64 dev one nodad")).unwrap();
    }
    one.ip("addr add 2001:db8::1/64 dev cable nodad").unwrap();
    let _running = field.registrar_on("[::]:51821");
    let ask = |server: SocketAddr| {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = one.enter(|| UdpSocket::bind(any)).unwrap().unwrap();
        one.enter(|| socket.connect(server)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let own = socket.local_addr().unwrap();
        let answered = wait_for("an answer", || {
            let transaction = Transaction::generate().unwrap();
            socket.send(&transaction.request()).ok()?;
            let mut room = [0; 128];
            let length = socket.recv(&mut room).ok()?;
            Some(transaction.mapped(&room[..length])?.address)
        });
        assert_eq!(answered.unwrap(), own, "{server}");
    };
    for ip in ["192.0.2.254", "192.0.2.253", "2001:db8::fe", "2001:db8::fd"] {
        ask(SocketAddr::new(ip.parse().unwrap(), 51821));
    }
}
