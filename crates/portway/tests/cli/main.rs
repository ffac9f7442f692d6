//! The program as its users see it: help, errors, exit codes, output in every format.

#[cfg(test)]
mod bad_compose;
#[cfg(test)]
mod bombs;
#[cfg(test)]
mod compose;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod help;
#[cfg(test)]
mod mesh;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod output;
#[cfg(test)]
mod shells;
#[cfg(test)]
mod ssh;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
