//! A registrar on real sockets: devices that join, follow, are revoked, and strangers.

#[cfg(test)]
mod bed;
#[cfg(test)]
mod device;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod rotate;
