//! Published ports and networks of Compose projects on a real Incus 6.0: what is led by the kernel and what is relayed,
//! by the server's own devices and by Portway's, seen from a machine beside the host.

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod native;
#[cfg(test)]
mod networks;
#[cfg(test)]
mod open;
#[cfg(test)]
mod ours;
#[cfg(test)]
mod outside;
#[cfg(test)]
#[expect(dead_code, reason = "shared with the tests of a project's life")]
#[path = "../incus_compose/scene.rs"]
mod scene;

/// The program.
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");

/// A service's lines: a web server that says this.
#[cfg(test)]
fn server(says: &str) -> String {
    format!(
        "image: bb\n    command: [sh, -c, 'mkdir -p /www; echo {says} > /www/index.html; exec httpd -f -p 80 -h /www']\n    \
         stop_grace_period: 0s\n"
    )
}
