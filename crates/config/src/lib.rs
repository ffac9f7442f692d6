//! Where Portway keeps its files ([`Paths`]), what the optional `portway.toml` says ([`Settings`]), and files of
//! devices ([`devices`]).
//!
//! Nothing here talks to a server; a message about a file names the file, and the line where there is one.

pub mod devices;
pub mod files;
pub mod paths;
pub mod settings;

pub use paths::{CONTROL_GROUP, Caller, Lock, Paths, PathsError};
pub use settings::{
    AccessSettings, DaemonSettings, IncusSettings, LogFilter, LxdSettings, MeshBalance, MeshEngine,
    MeshSettings, MeshSource, RelayUser, Settings, SettingsError, UserIds,
};
