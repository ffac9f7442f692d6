//! Keys and files beside `wg`, `wg-quick` and wireguard-go.

#[cfg(test)]
mod oracle;
