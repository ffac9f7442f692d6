//! The system's errors as the protocol's.

use portway_proto::sftp::Status;
use rustix::io::Errno;

/// What a client is told of an error; the protocol knows few.
pub(super) const fn status(error: Errno) -> Status {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::BADF | Errno::LOOP => Status::NoSuchFile,
        Errno::PERM | Errno::ACCESS => Status::PermissionDenied,
        Errno::NAMETOOLONG | Errno::INVAL => Status::BadMessage,
        Errno::NOSYS | Errno::OPNOTSUPP => Status::Unsupported,
        _ => Status::Failure,
    }
}
