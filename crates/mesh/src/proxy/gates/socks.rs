//! A client of SOCKS version 5, until it has what it wants.

use portway_proto::socks5::{self, Expected, Hearing, Malformed, Reply, Request};
use portway_proto::target::Target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::room::Places;
use super::associate::Association;
use super::{Gate, HEARING, Heard, Trouble, WRONG_LOGIN, farewell, is_login, way};

/// Hears a client out and answers it.
pub(super) async fn serve(gate: &Gate, client: &mut TcpStream, held: &mut Places) -> Result<Heard, Trouble> {
    let request = timeout(HEARING, request(gate, client)).await;
    match request.unwrap_or_else(|_| Err(Trouble::Malformed("too slow".to_owned())))? {
        Request::Connect(target) => connect(gate, client, &target, held).await,
        Request::Associate(target) => associate(gate, client, &target).await,
        Request::Bind(_) => {
            farewell(client, &socks5::reply(Reply::CommandNotSupported, None)).await;
            Ok(Heard::Over)
        }
    }
}

async fn request(gate: &Gate, client: &mut TcpStream) -> Result<Request, Trouble> {
    let greeting = hear(client, Expected::Greeting, |heard| match heard {
        socks5::Heard::Greeting { none, login } => Some((none, login)),
        _ => None,
    });
    let (none, login) = greeting.await?;
    let next = match &gate.listen.login {
        Some(_) => login.then_some(Expected::Login),
        None => none.then_some(Expected::Request),
    };
    if next.is_none() {
        farewell(client, &socks5::method(None)).await;
        return Err(Trouble::Malformed("no method that is taken here".to_owned()));
    }
    client.write_all(&socks5::method(next)).await?;
    if let Some(wanted) = &gate.listen.login {
        let judged = hear(client, Expected::Login, |heard| match heard {
            socks5::Heard::Login { user, password } => Some(is_login(wanted, user, password)),
            _ => None,
        });
        if !judged.await? {
            tokio::time::sleep(WRONG_LOGIN).await;
            farewell(client, &socks5::login(false)).await;
            return Err(Trouble::Stranger);
        }
        client.write_all(&socks5::login(true)).await?;
    }
    hear(client, Expected::Request, |heard| match heard {
        socks5::Heard::Request(request) => Some(request),
        _ => None,
    })
    .await
}

/// Hears one message; `take` makes of it what is wanted.
async fn hear<T>(
    client: &mut TcpStream,
    expected: Expected,
    take: impl FnOnce(socks5::Heard<'_>) -> Option<T>,
) -> Result<T, Trouble> {
    let mut hearing = Hearing::of(expected);
    loop {
        let count = client.read(hearing.room()).await?;
        if count == 0 {
            return Err(Trouble::Gone);
        }
        match hearing.filled(count) {
            Ok(None) => {}
            Ok(Some(heard)) => return take(heard).ok_or(Trouble::Gone),
            Err(malformed) => {
                tell(client, malformed).await;
                return Err(Trouble::Malformed(malformed.to_string()));
            }
        }
    }
}

async fn tell(client: &mut TcpStream, malformed: Malformed) {
    if let Some(reply) = malformed.reply() {
        farewell(client, &socks5::reply(reply, None)).await;
    }
}

async fn connect(
    gate: &Gate,
    client: &mut TcpStream,
    target: &Target,
    held: &mut Places,
) -> Result<Heard, Trouble> {
    match way::connect(&gate.all.shared, gate.slot, target, held).await {
        Ok(upstream) => {
            client.write_all(&socks5::reply(Reply::Succeeded, None)).await?;
            Ok(Heard::Connected(upstream))
        }
        Err(refusal) => {
            farewell(client, &socks5::reply(refusal.reply(), None)).await;
            Err(Trouble::Refused(refusal))
        }
    }
}

async fn associate(gate: &Gate, client: &mut TcpStream, from: &Target) -> Result<Heard, Trouble> {
    match Association::open(&gate.all.associations, client, from.port).await {
        Ok((association, address)) => {
            client.write_all(&socks5::reply(Reply::Succeeded, Some(address))).await?;
            Ok(Heard::Associated(association))
        }
        Err(_) => {
            farewell(client, &socks5::reply(Reply::GeneralFailure, None)).await;
            Ok(Heard::Over)
        }
    }
}
