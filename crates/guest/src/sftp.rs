//! The SFTP server: whatever its user may do to files, this process may, and nothing else.
//!
//! Requests are answered in order, as many as have come before anything is written, so that a client that asks ahead
//! waits for nothing. It starts in its user's home: its working directory, or `HOME`.

mod errors;
mod files;
mod handles;
mod names;
mod paths;
mod reply;
mod stat;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use portway_proto::guest::Inbox;
use portway_proto::sftp::{
    DATA_MAX_BYTES, Operation, PACKET_MAX_BYTES, Request, RequestError, Status, VERSION,
};
use rustix::io::Errno;

use handles::Handles;
use names::Names;
use reply::{Replies, Reply};

/// Extensions that are announced, with their versions.
const EXTENSIONS: [(&str, &str); 11] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
    ("copy-data", "1"),
    ("home-directory", "1"),
    ("users-groups-by-id@openssh.com", "1"),
];

/// Serves a client on standard input and output until it is gone.
///
/// # Errors
/// When the pipes fail, or the client says what is no packet.
pub(crate) fn serve_stdio() -> io::Result<()> {
    // Else a client that may have files would have all of this process: /proc/self/mem is a file.
    portway_sys::sandbox::undumpable()?;
    // It runs nothing.
    portway_sys::sandbox::no_new_privs()?;
    let (stdin, stdout) = (io::stdin(), io::stdout());
    serve(stdin.as_fd(), stdout.as_fd())
}

fn serve(input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> io::Result<()> {
    let mut server = Server { handles: Handles::default(), names: Names::default() };
    let (mut inbox, mut replies) = (Inbox::default(), Replies::new(output));
    loop {
        match rustix::io::read(input, inbox.room()) {
            Ok(0) => return Ok(()),
            Ok(count) => inbox.filled(count),
            Err(Errno::INTR | Errno::AGAIN) => {
                wait_for(input, rustix::event::PollFlags::IN)?;
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        while let Some(packet) = inbox.next().map_err(io::Error::other)? {
            if packet.len() > PACKET_MAX_BYTES {
                return Err(io::Error::other("an SFTP packet that is too long"));
            }
            server.answer(packet, &mut replies)?;
            replies.flush_if_many()?;
        }
        replies.flush()?;
    }
}

/// The pipes may have been made non-blocking by whoever shares them.
fn wait_for(fd: BorrowedFd<'_>, flags: rustix::event::PollFlags) -> io::Result<()> {
    match rustix::event::poll(&mut [rustix::event::PollFd::from_borrowed_fd(fd, flags)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

struct Server {
    handles: Handles,
    names: Names,
}

impl Server {
    fn answer(&mut self, packet: &[u8], replies: &mut Replies<'_>) -> io::Result<()> {
        match Request::read(packet) {
            Ok(Request::Init { .. }) => replies.version(VERSION, &EXTENSIONS),
            Ok(Request::Do { id, operation }) => {
                let reply = replies.begin(id);
                self.act(operation, reply);
            }
            Err(RequestError::Malformed { id }) => replies.begin(id).status(Status::BadMessage),
            Err(error @ RequestError::Headless) => return Err(io::Error::other(error)),
        }
        Ok(())
    }

    fn act(&mut self, operation: Operation<'_>, reply: Reply<'_, '_>) {
        match operation {
            Operation::Open { path, how, attributes } => {
                let opened = files::open(path, how, &attributes);
                let handle = opened.and_then(|file| self.handles.add_file(file));
                reply.of(handle, Reply::handle);
            }
            Operation::Opendir { path } => {
                let handle = files::open_dir(path).and_then(|dir| self.handles.add_dir(dir));
                reply.of(handle, Reply::handle);
            }
            Operation::Close { handle } => reply.done(self.handles.close(handle)),
            Operation::Read { handle, offset, length } => match self.handles.file(handle) {
                Ok(file) => reply.data(file, offset, length),
                Err(error) => reply.status(errors::status(error)),
            },
            Operation::Write { handle, offset, data } => {
                reply.done(self.handles.file(handle).and_then(|file| files::write(file, offset, data)));
            }
            Operation::Readdir { handle } => {
                let entries = match self.handles.dir(handle) {
                    Ok(dir) => stat::entries(dir, &mut self.names),
                    Err(error) => Err(error),
                };
                reply.entries(entries);
            }
            Operation::Limits => reply.limits(),
            Operation::NamesOfIds { uids, gids } => self.names_of_ids(uids, gids, reply),
            Operation::CopyData { from, from_offset, length, to, to_offset } => {
                let copied = match (self.handles.file(from), self.handles.file(to)) {
                    (Ok(from), Ok(to)) => files::copy((from, from_offset), (to, to_offset), length),
                    (Err(error), _) | (_, Err(error)) => Err(error),
                };
                reply.done(copied);
            }
            Operation::Unknown => reply.status(Status::Unsupported),
            other => self.act_on_attributes(other, reply),
        }
    }

    fn act_on_attributes(&self, operation: Operation<'_>, reply: Reply<'_, '_>) {
        match operation {
            Operation::Lstat { path } => reply.of(stat::lstat(path), Reply::attributes),
            Operation::Stat { path } => reply.of(stat::stat(path), Reply::attributes),
            Operation::Fstat { handle } => {
                reply.of(self.handles.any(handle).and_then(stat::fstat), Reply::attributes);
            }
            Operation::Setstat { path, attributes } => reply.done(stat::set(path, &attributes)),
            Operation::Lsetstat { path, attributes } => reply.done(stat::set_link(path, &attributes)),
            Operation::Fsetstat { handle, attributes } => {
                reply.done(self.handles.any(handle).and_then(|fd| stat::set_open(fd, &attributes)));
            }
            Operation::Statvfs { path } => {
                reply.of(paths::name(path).and_then(|path| rustix::fs::statvfs(&*path)), Reply::statvfs);
            }
            Operation::Fstatvfs { handle } => {
                let stat = self.handles.any(handle).and_then(rustix::fs::fstatvfs);
                reply.of(stat, Reply::statvfs);
            }
            Operation::Fsync { handle } => {
                reply.done(self.handles.file(handle).and_then(rustix::fs::fsync));
            }
            other => Self::act_on_names(other, reply),
        }
    }

    fn act_on_names(operation: Operation<'_>, reply: Reply<'_, '_>) {
        match operation {
            Operation::Remove { path } => reply.done(files::remove(path)),
            Operation::Mkdir { path, attributes } => reply.done(files::make_dir(path, &attributes)),
            Operation::Rmdir { path } => reply.done(files::remove_dir(path)),
            Operation::Rename { from, to } => reply.done(files::rename(from, to)),
            Operation::PosixRename { from, to } => reply.done(files::rename_over(from, to)),
            Operation::Hardlink { from, to } => reply.done(files::link(from, to)),
            Operation::Symlink { target, path } => reply.done(files::symlink(target, path)),
            Operation::Readlink { path } => reply.of(files::read_link(path), Reply::name),
            Operation::Realpath { path } => reply.of(paths::real(path), Reply::name),
            Operation::ExpandPath { path } => reply.of(paths::expand(path), Reply::name),
            Operation::HomeDirectory { user } => reply.of(paths::home(user), Reply::name),
            // Dealt with before this is called.
            _ => reply.status(Status::Unsupported),
        }
    }

    fn names_of_ids(&mut self, uids: &[u8], gids: &[u8], reply: Reply<'_, '_>) {
        let ids = |list: &[u8]| -> Vec<u32> {
            list.chunks_exact(4).filter_map(|id| Some(u32::from_be_bytes(*id.first_chunk()?))).collect()
        };
        let users: Vec<Vec<u8>> = ids(uids).into_iter().map(|uid| self.names.user(uid)).collect();
        let groups: Vec<Vec<u8>> = ids(gids).into_iter().map(|gid| self.names.group(gid)).collect();
        let bytes: usize = users.iter().chain(&groups).map(|name| name.len() + size_of::<u32>()).sum();
        // What no client takes as one packet is not said.
        if bytes > DATA_MAX_BYTES { reply.status(Status::Failure) } else { reply.id_names(&users, &groups) }
    }
}
