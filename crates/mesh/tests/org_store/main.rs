//! Organizations in their stores: the same cases with a file and with etcd.

#[cfg(test)]
mod cases;
#[cfg(test)]
mod etcd;
#[cfg(test)]
mod file;
#[cfg(test)]
mod server;
