//! The picture of the page: for each workload how near each peer comes to no proxy at all.

use std::fmt::Write as _;

use crate::peer::Peer;
use crate::results::Results;
use crate::workload::WORKLOADS;

/// Peers and their colours, in the order of the bars.
const BARS: [(Peer, &str); 7] = [
    (Peer::Forkproxy, "#b5b5b5"),
    (Peer::Nginx, "#8fa88f"),
    (Peer::Haproxy, "#a89a8f"),
    (Peer::Socat, "#d0c8b8"),
    (Peer::Relay, "#1f6fb4"),
    (Peer::IncusNat, "#c9a227"),
    (Peer::Nat, "#d9541e"),
];

const LEFT: f64 = 250.0;
const WIDTH: f64 = 460.0;
const BAR: f64 = 7.0;
const GAP: f64 = 12.0;
const TOP: f64 = 58.0;

/// Right end of the scale, times direct.
const SCALE: f64 = 1.2;

/// The picture, as SVG. A cost is turned round, so that longer is better for every bar.
pub(crate) fn ratios(results: &Results) -> String {
    let mut body = String::new();
    let mut y = TOP;
    for workload in WORKLOADS {
        let Some(metric) = workload.metrics().first() else { continue };
        let bars: Vec<(f64, &str)> = BARS
            .iter()
            .filter_map(|(peer, colour)| {
                let ratio = results.ratio(workload.name, *peer, Peer::Direct, *metric)?.value;
                Some((if metric.is_cost() { 1.0 / ratio } else { ratio }, *colour))
            })
            .collect();
        if bars.is_empty() {
            continue;
        }
        let middle = y + BAR * bars.len() as f64 / 2.0 + 4.0;
        let title = format!("{} ({})", workload.title, metric.unit());
        // Writing to a String cannot fail.
        let _ =
            writeln!(body, "<text x=\"{}\" y=\"{middle:.0}\" text-anchor=\"end\">{title}</text>", LEFT - 8.0);
        for (ratio, colour) in bars {
            let length = WIDTH * ratio.clamp(0.0, SCALE) / SCALE;
            let _ = writeln!(
                body,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>",
                BAR - 1.0
            );
            y += BAR;
        }
        y += GAP;
    }
    frame(&body, y)
}

/// Legend, scale and size around the bars.
fn frame(body: &str, bottom: f64) -> String {
    let mut out = String::new();
    let (width, height) = (LEFT + WIDTH + 20.0, bottom + 24.0);
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
    );
    let _ = writeln!(
        out,
        "<text x=\"10\" y=\"18\" font-size=\"13\">Beside no proxy at all (1.0): longer is better</text>"
    );
    for (number, (peer, colour)) in BARS.iter().enumerate() {
        let x = 10.0 + 100.0 * number as f64;
        let name = peer.title().replace('*', "");
        let _ = writeln!(out, "<rect x=\"{x}\" y=\"30\" width=\"10\" height=\"10\" fill=\"{colour}\"/>");
        let _ = writeln!(out, "<text x=\"{}\" y=\"39\">{name}</text>", x + 14.0);
    }
    for step in 0..=6_u8 {
        let ratio = f64::from(step) / 5.0;
        let x = LEFT + WIDTH * ratio / SCALE;
        let colour = if step == 5 { "#404040" } else { "#dddddd" };
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{bottom}\" stroke=\"{colour}\"/>",
            TOP - 6.0
        );
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{ratio:.1}</text>",
            bottom + 14.0
        );
    }
    out + body + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;

    /// Fails when: a latency of twice the direct one is drawn as twice as good.
    #[test]
    fn a_cost_is_turned_round() {
        let mut results = Results::default();
        let p50 = |value| vec![Some(Sample { p50_us: Some(value), ..Sample::default() })];
        let peers = results.samples.entry("rtt-1".to_owned()).or_default();
        peers.insert(Peer::Direct, p50(10.0));
        peers.insert(Peer::Relay, p50(20.0));
        let picture = ratios(&results);
        let half = format!("width=\"{:.1}\" height=\"6\" fill=\"#1f6fb4\"", WIDTH * 0.5 / SCALE);
        assert!(picture.contains(&half), "{picture}");
        assert!(picture.ends_with("</svg>\n"));
    }
}
