//! A client of HTTP that wants a tunnel, until it has one.

use base64ct::{Base64, Encoding as _};
use portway_proto::http_connect::{Head, Status};
use portway_proto::target::Target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::super::room::Places;
use super::{Gate, HEARING, Heard, Trouble, WRONG_LOGIN, farewell, is_login, way};
use crate::spec::Login;

/// How much is looked at at a time.
const LOOK_BYTES: usize = 2048;

/// What is wrong, and what the client is answered.
struct No(Status, Trouble);

/// Hears a client out and answers it.
pub(super) async fn serve(gate: &Gate, client: &mut TcpStream, held: &mut Places) -> Result<Heard, Trouble> {
    let slow = || No(Status::RequestTimeout, Trouble::Malformed("too slow".to_owned()));
    let target = match timeout(HEARING, target(gate, client)).await.unwrap_or_else(|_| Err(slow())) {
        Ok(target) => target,
        Err(No(_, Trouble::Gone)) => return Err(Trouble::Gone),
        Err(No(status, trouble)) => {
            farewell(client, status.answer().as_bytes()).await;
            return Err(trouble);
        }
    };
    match way::connect(&gate.all.shared, gate.slot, &target, held).await {
        Ok(upstream) => {
            client.write_all(Status::Established.answer().as_bytes()).await?;
            Ok(Heard::Connected(upstream))
        }
        Err(refusal) => {
            farewell(client, refusal.status().answer().as_bytes()).await;
            Err(Trouble::Refused(refusal))
        }
    }
}

async fn target(gate: &Gate, client: &mut TcpStream) -> Result<Target, No> {
    let gone = |_| No(Status::BadRequest, Trouble::Gone);
    let malformed =
        |why: portway_proto::http_connect::Malformed| No(why.status(), Trouble::Malformed(why.to_string()));
    let mut head = Head::default();
    let mut buffer = [0; LOOK_BYTES];
    loop {
        // What is behind the head stays where it is.
        let count = client.peek(&mut buffer).await.map_err(gone)?;
        let seen = buffer.get(..count).filter(|seen| !seen.is_empty());
        let taken = head.take(seen.ok_or(No(Status::BadRequest, Trouble::Gone))?).map_err(malformed)?;
        let room = buffer.get_mut(..taken.count).unwrap_or_default();
        client.read_exact(room).await.map_err(gone)?;
        if taken.is_whole {
            break;
        }
    }
    let request = head.read().map_err(malformed)?;
    if let Some(login) = &gate.listen.login {
        let is_right = request.authorization.is_some_and(|said| is_allowed(login, said));
        if !is_right {
            // Who has said nothing asks what is wanted, as most clients do.
            let Some(_) = request.authorization else {
                let why = "no name and password".to_owned();
                return Err(No(Status::AuthenticationRequired, Trouble::Malformed(why)));
            };
            tokio::time::sleep(WRONG_LOGIN).await;
            return Err(No(Status::AuthenticationRequired, Trouble::Stranger));
        }
    }
    Ok(request.target)
}

/// Whether `Basic` and what follows it are the name and the password (RFC 7617).
fn is_allowed(login: &Login, said: &str) -> bool {
    let Some((scheme, token)) = said.split_once(' ').filter(|_| said.len() < 1024) else { return false };
    let decoded = Base64::decode_vec(token.trim()).map(Zeroizing::new).unwrap_or_default();
    let colon = decoded.iter().position(|byte| *byte == b':');
    let (user, password) = decoded.split_at(colon.unwrap_or(0));
    let is_login = is_login(login, user, password.get(1..).unwrap_or_default());
    is_login && scheme.eq_ignore_ascii_case("basic") && colon.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords() {
        let login = Login { user: "Aladdin".to_owned(), password: "open:sesame".to_owned().into() };
        // RFC 7617, 2, with a colon in the password.
        assert!(is_allowed(&login, "Basic QWxhZGRpbjpvcGVuOnNlc2FtZQ=="));
        assert!(is_allowed(&login, "bAsIc  QWxhZGRpbjpvcGVuOnNlc2FtZQ=="));
        for said in [
            "",
            "Basic",
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "Digest QWxhZGRpbjpvcGVuOnNlc2FtZQ==",
            "Basic QWxhZGRpbg==",
            "Basic not base64",
            "Basic Og==",
        ] {
            assert!(!is_allowed(&login, said), "{said}");
        }
        assert!(!is_allowed(&login, &format!("Basic {}", "QUFB".repeat(1000))));
    }
}
