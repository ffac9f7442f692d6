//! What a client asks for. Called from the connection's loop, so nothing here waits for anybody but the broker's
//! verdict on a key.

use std::sync::Arc;

use portway_proto::guest::{Place, Size};
use russh::keys::ssh_key::Certificate;
use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, Pty, Sig};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::channels::{Channels, Idle};
use super::forward::{self, FORWARDS};
use super::helper::Helper;
use super::inbox::{NoRoom, Outlet};
use super::link::Link;
use super::listeners::{COME, Confirmed, Listeners, Server};
use super::login::Login;
use super::paced::Pace;
use super::program::{self, Gateway, Screen, Wanted};
use super::{inside, lent, signals};
use crate::broker::{is_accepted, kind};
use crate::options::Method;
use crate::wire::{PROGRAMS, What};

/// Variables of one channel, the bytes of one, and of all of them as they go to the broker: what is escaped there is
/// longer, and with the longest command it has to fit into one packet.
const VARIABLES: usize = 64;
const VARIABLE_BYTES: usize = 4 << 10;
const VARIABLES_BYTES: usize = 64 << 10;

/// Size of a terminal whose client does not say (as of the server's).
const USUAL: Size = Size { columns: 80, rows: 24, width: 0, height: 0 };

/// Most modes of a terminal: there are fewer.
const MODES: usize = 256;

/// Longest name of a kind of terminal.
const KIND_BYTES: usize = 64;

/// One client.
pub(super) struct Client {
    link: Arc<Link>,
    login: Login,
    channels: Channels,
    logged_in: CancellationToken,
    programs: TaskTracker,
    forwards: TaskTracker,
    listeners: Listeners,
    /// Places for those who come to where it listens.
    come: Arc<Semaphore>,
    confirmed: Arc<Confirmed>,
    helper: Arc<Helper>,
    pace: Pace,
    banner: String,
}

impl Client {
    pub(super) fn new(link: Arc<Link>, methods: Vec<Method>, banner: String) -> Self {
        Self {
            banner,
            login: Login::new(Arc::clone(&link), methods),
            helper: Arc::new(Helper::new(Arc::clone(&link))),
            link,
            channels: Channels::default(),
            logged_in: CancellationToken::new(),
            programs: TaskTracker::new(),
            forwards: TaskTracker::new(),
            listeners: Listeners::default(),
            confirmed: Arc::default(),
            come: Arc::new(Semaphore::new(COME)),
            pace: Pace::default(),
        }
    }

    /// Cancelled once somebody has logged in.
    pub(super) fn logged_in(&self) -> CancellationToken {
        self.logged_in.clone()
    }

    /// The programs that run.
    pub(super) fn programs(&self) -> TaskTracker {
        self.programs.clone()
    }

    /// The connections that are forwarded.
    pub(super) fn forwards(&self) -> TaskTracker {
        self.forwards.clone()
    }

    /// The helper of its connection.
    pub(super) fn helper(&self) -> Arc<Helper> {
        Arc::clone(&self.helper)
    }

    /// The pace of its connection.
    pub(super) fn pace(&self) -> Pace {
        self.pace.clone()
    }

    /// Takes a channel in.
    fn attend(&mut self, channel: Channel<Msg>) -> (ChannelWriteHalf<Msg>, Outlet) {
        let outlet = self.channels.receive(channel.id());
        // What comes in is handed to us; nobody reads it a second time.
        let (_unread, channel) = channel.split();
        (channel, outlet)
    }

    /// What makes channels to the client.
    fn server(&self, session: &Session) -> Server {
        let gateway = forward::Gateway { link: Arc::clone(&self.link), helper: Arc::clone(&self.helper) };
        let (forwards, confirmed) = (self.forwards.clone(), Arc::clone(&self.confirmed));
        let come = Arc::clone(&self.come);
        Server { gateway, handle: session.handle(), forwards, confirmed, come }
    }

    /// Connects a channel to somewhere inside. It is answered once that is done.
    async fn forward(&mut self, channel: Channel<Msg>, to: Option<Place>, reply: ChannelOpenHandle) {
        let Some(to) = to else { return reply.reject(ChannelOpenFailure::ConnectFailed).await };
        if self.forwards.len() >= FORWARDS {
            return reply.reject(ChannelOpenFailure::ResourceShortage).await;
        }
        let (channel, outlet) = self.attend(channel);
        let gateway = forward::Gateway { link: Arc::clone(&self.link), helper: Arc::clone(&self.helper) };
        self.forwards.spawn(forward::local(gateway, to, reply, channel, outlet));
    }

    /// Starts what is asked for. It is agreed to at once: what is wrong with it is said on the channel.
    fn start(
        &mut self,
        id: ChannelId,
        what: What,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        if self.programs.len() >= PROGRAMS {
            return session.channel_failure(id);
        }
        let Some(idle) = self.channels.begin(id) else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let Idle { channel, outlet, screen, environment, asked } = idle;
        let is_greeted = what == What::Shell && screen.is_some();
        let welcome = if is_greeted { self.login.welcome().to_owned() } else { String::new() };
        let wanted = Wanted { what, command: command.to_vec(), screen, environment, welcome, asked };
        let (link, helper) = (Arc::clone(&self.link), Arc::clone(&self.helper));
        let gateway = Gateway { link, helper, handle: session.handle(), server: self.server(session) };
        self.programs.spawn(program::run(gateway, channel, outlet, wanted));
        Ok(())
    }
}

/// A client that has sent more than it was given leave to. Nothing it says counts any more.
fn excess(channel: ChannelId) -> russh::Error {
    tracing::warn!(%channel, "the client sends more than its window");
    russh::Error::Disconnect
}

impl Handler for Client {
    type Error = russh::Error;

    async fn authentication_banner(&mut self) -> Result<Option<String>, russh::Error> {
        Ok(Some(std::mem::take(&mut self.banner)).filter(|text| !text.is_empty()))
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, russh::Error> {
        Ok(self.login.offered(user, &offer).await)
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        Ok(self.login.proven(user, &key).await)
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth, russh::Error> {
        Ok(self.login.certified(user, certificate).await)
    }

    async fn auth_none(&mut self, user: &str) -> Result<Auth, russh::Error> {
        Ok(self.login.asked(user).await)
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, russh::Error> {
        Ok(self.login.password(user, password).await)
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        // One question was asked; what else is answered is not looked at.
        let answer = response.map(|mut answers| answers.next().unwrap_or_default());
        Ok(self.login.interactive(user, answer.as_deref()).await)
    }

    async fn auth_succeeded(&mut self, _: &mut Session) -> Result<(), russh::Error> {
        self.logged_in.cancel();
        super::goes_first();
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        // Programs of channels that are closed count until they have ended.
        let (sessions, idle) = self.channels.sessions();
        if sessions >= PROGRAMS || self.programs.len() + idle >= PROGRAMS {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let id = channel.id();
        let (channel, outlet) = self.attend(channel);
        let idle =
            Idle { channel, outlet, screen: None, environment: Vec::new(), asked: lent::Asked::default() };
        self.channels.await_program(id, idle);
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _from: &str,
        _from_port: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.forward(channel, forward::tcp(host, port), reply).await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.forward(channel, forward::unix(path), reply).await;
        Ok(())
    }

    async fn channel_open_confirmation(
        &mut self,
        id: ChannelId,
        _packet_bytes: u32,
        _window_bytes: u32,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        let outlet = self.channels.receive(id);
        self.confirmed.put(id, outlet);
        Ok(())
    }

    /// Waited for here: the library answers when this returns.
    async fn tcpip_forward(
        &mut self,
        host: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, russh::Error> {
        let server = self.server(session);
        let given = self.listeners.add(server, host, forward::tcp(host, *port)).await;
        *port = given.unwrap_or(*port);
        Ok(given.is_some())
    }

    async fn cancel_tcpip_forward(
        &mut self,
        host: &str,
        port: u32,
        _: &mut Session,
    ) -> Result<bool, russh::Error> {
        Ok(self.listeners.remove(host, port))
    }

    async fn streamlocal_forward(&mut self, path: &str, session: &mut Session) -> Result<bool, russh::Error> {
        let server = self.server(session);
        Ok(self.listeners.add(server, path, forward::unix(path)).await.is_some())
    }

    async fn cancel_streamlocal_forward(
        &mut self,
        path: &str,
        _: &mut Session,
    ) -> Result<bool, russh::Error> {
        Ok(self.listeners.remove(path, 0))
    }

    async fn channel_close(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), russh::Error> {
        self.channels.close(channel);
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), russh::Error> {
        self.channels.end(channel);
        Ok(())
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let left = session.sender_window_size(channel);
        let pause = self.channels.take(channel, data, left).map_err(|NoRoom| excess(channel))?;
        if let Some(pause) = pause {
            self.pace.rest(pause);
        }
        Ok(())
    }

    /// A client has no such streams; its window is its window.
    async fn extended_data(
        &mut self,
        channel: ChannelId,
        _code: u32,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let left = session.sender_window_size(channel);
        self.channels.count(channel, data.len(), left).map_err(|NoRoom| excess(channel))
    }

    /// Asked at each new window, of whichever channel, about all that follow.
    fn adjust_window(&mut self, _: ChannelId, _: u32) -> u32 {
        self.channels.window_bytes()
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        pixel_width: u32,
        pixel_height: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let Some(idle) =
            self.channels.idle(channel).filter(|idle| idle.screen.is_none() && term.len() <= KIND_BYTES)
        else {
            return session.channel_failure(channel);
        };
        let size = inside::size(columns, rows, pixel_width, pixel_height).unwrap_or(USUAL);
        let modes = modes.iter().take(MODES).map(|(mode, value)| (*mode as u8, *value)).collect();
        idle.screen = Some(Screen { kind: kind(term), size, modes });
        session.channel_success(channel)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        single: bool,
        protocol: &str,
        cookie: &str,
        screen: u32,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let may = self.login.lends().x11;
        let display = lent::Display::new(single, protocol, cookie, screen).filter(|_| may);
        match (self.channels.idle(channel), display) {
            (Some(idle), Some(display)) if idle.asked.display.is_none() => {
                idle.asked.display = Some(display);
                session.channel_success(channel)
            }
            _ => session.channel_failure(channel),
        }
    }

    async fn agent_request(&mut self, channel: ChannelId, _: &mut Session) -> Result<bool, russh::Error> {
        let may = self.login.lends().agent;
        let Some(idle) = self.channels.idle(channel).filter(|_| may) else { return Ok(false) };
        idle.asked.agent = true;
        Ok(true)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let fits = is_accepted(name) && name.len() + value.len() <= VARIABLE_BYTES;
        let Some(idle) =
            self.channels.idle(channel).filter(|idle| fits && idle.environment.len() < VARIABLES)
        else {
            return session.channel_failure(channel);
        };
        idle.environment.push((name.to_owned(), value.to_owned()));
        if serde_json::to_vec(&idle.environment).is_ok_and(|text| text.len() <= VARIABLES_BYTES) {
            return session.channel_success(channel);
        }
        idle.environment.pop();
        session.channel_failure(channel)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        self.start(channel, What::Shell, &[], session)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.start(channel, What::Command, data, session)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        match name {
            "sftp" => self.start(channel, What::Sftp, &[], session),
            _ => session.channel_failure(channel),
        }
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        columns: u32,
        rows: u32,
        pixel_width: u32,
        pixel_height: u32,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let size = inside::size(columns, rows, pixel_width, pixel_height);
        if self.channels.resize(channel, size).is_none() {
            return session.channel_failure(channel);
        }
        session.channel_success(channel)
    }

    async fn signal(&mut self, channel: ChannelId, signal: Sig, _: &mut Session) -> Result<(), russh::Error> {
        if let Some(number) = signals::number(&signal) {
            self.channels.signal(channel, number);
        }
        Ok(())
    }
}
