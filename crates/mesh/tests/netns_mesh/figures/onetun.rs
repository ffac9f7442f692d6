//! onetun beside the others: its port, its tunnel, wireguard-go, and a service there. Streams begin at its end both ways,
//! since it takes in nobody.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use super::ends::listen;
use super::{Figures, add_run, is_brief};
use crate::bed::{Bed, WireguardGo};
use crate::onetun::Onetun;

/// Bytes of a run over all its streams: it carries less than a hundredth of what the others do.
pub(super) fn run_bytes() -> u64 {
    if is_brief() { 512 << 10 } else { 4 << 20 }
}

/// All of it; `row` is what it is called.
pub(super) fn measure(figures: &mut Figures, row: &str) {
    for (is_out, columns) in [(true, ["out 1", "out 8"]), (false, ["in 1", "in 8"])] {
        for (streams, column) in [1, 8].into_iter().zip(columns) {
            let bed = Bed::new();
            let go = bed.wireguard_go();
            let pids = |onetun: &Onetun, go: &WireguardGo| [onetun.pid(), go.pid()];
            let peer = (bed.peer.public(), bed.endpoint);
            let listener = listen(&bed.theirs, "10.9.0.2:2000");
            let onetun = Onetun::start(&bed.ours, (&bed.key, "10.9.0.1"), peer, "10.9.0.2:2000");
            let length = usize::try_from(run_bytes() / streams).unwrap();
            std::thread::spawn(move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    std::thread::spawn(move || {
                        // Who only looked whether it is there says nothing.
                        stream.read_exact(&mut [0]).ok()?;
                        if is_out {
                            stream.read_exact(&mut vec![0; length]).ok()?;
                            stream.write_all(b"x").ok()?;
                        } else {
                            stream.write_all(&vec![7; length]).ok()?;
                        }
                        stream.read_exact(&mut [0]).ok()
                    });
                }
            });
            add_run(figures, row, column, &pids(&onetun, &go), run_bytes(), || {
                run(&onetun, streams, length, is_out)
            });
        }
    }
}

fn run(onetun: &Onetun, streams: u64, length: usize, is_out: bool) -> Duration {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..streams {
            scope.spawn(|| {
                let mut stream = onetun.connect();
                stream.write_all(b"x").unwrap();
                if is_out {
                    stream.write_all(&vec![7; length]).unwrap();
                    stream.read_exact(&mut [0]).unwrap();
                } else {
                    stream.read_exact(&mut vec![0; length]).unwrap();
                }
            });
        }
    });
    begin.elapsed()
}
