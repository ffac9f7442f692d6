use std::io::Cursor;
use std::time::Duration;

use super::*;

fn read(text: &str) -> Result<Vec<Moment>, CastError> {
    let mut cast = Cast::new(Cursor::new(text.to_owned()))?;
    let mut moments = Vec::new();
    while let Some(moment) = cast.next_moment()? {
        moments.push(moment);
    }
    Ok(moments)
}

/// Fails when what is written is not what is read: characters that came in pieces, bytes that are no text, sizes.
#[test]
fn what_is_written_is_read() {
    let mut script = Script::default();
    let at = Duration::from_micros;
    let mut text = header(Some((100, 30)), 1_700_000_000, "ann: bob@c1", Some("xterm"), None);
    let mut add = |line: Option<String>| text += &line.unwrap_or_default();
    add(script.output(at(1), Stream::Out, b"a\xe2\x82"));
    // In its middle the other stream says something.
    add(script.output(at(2), Stream::Error, b"e\xff\x00\x1b[0m\"\\\n"));
    add(script.output(at(3), Stream::Out, b"\xac"));
    add(Some(Script::resize(at(2_000_004), 7, 8)));
    add(Some(Script::mark(at(2_000_005), "m")));
    add(script.output(at(2_000_006), Stream::Out, b"\xf0\x9f"));
    let cast = Cast::new(Cursor::new(text.clone())).expect("a recording");
    assert_eq!(
        (cast.size(), cast.began(), cast.title()),
        ((100, 30), Some(1_700_000_000), Some("ann: bob@c1"))
    );
    let output = |micros, text: &str| Moment { at: at(micros), what: Happened::Output(text.to_owned()) };
    let wanted = [
        output(1, "a"),
        output(2, "e\u{fffd}\0\u{1b}[0m\"\\\n"),
        output(3, "€"),
        Moment { at: at(2_000_004), what: Happened::Resize(7, 8) },
        Moment { at: at(2_000_005), what: Happened::Mark("m".to_owned()) },
    ];
    assert_eq!(read(&text).expect("a recording"), wanted);
    // Half a line is one that is being written.
    assert_eq!(read(&format!("{text}[3.0, \"o\", \"x")).expect("a recording").len(), wanted.len());
}

#[test]
fn what_is_none_is_refused_with_its_line() {
    let header = "{\"version\":2,\"width\":80,\"height\":24}\n";
    let said = |text: &str| read(text).expect_err("refused").to_string();
    assert_eq!(said(""), "line 1: this is no recording of asciinema's format");
    assert_eq!(said("hello\n"), "line 1: this is no recording of asciinema's format");
    assert_eq!(said("{\"version\":3}\n"), "line 1: it is of version 3 of the format, and 2 is read");
    assert_eq!(said(&format!("{header}[1]\n")), "line 2: it is no JSON");
    assert_eq!(said(&format!("{header}\n[-1.0,\"o\",\"x\"]\n")), "line 3: its time is none");
    assert_eq!(said(&format!("{header}[1e300,\"o\",\"x\"]\n")), "line 2: its time is none");
    assert_eq!(said(&format!("{header}[1.0,\"r\",\"0x\"]\n")), "line 2: its size is none");
    let long = format!("{header}[1.0,\"o\",\"{}\"]\n", "x".repeat(3 << 20));
    assert_eq!(said(&long), "line 2: it is too long");
    // What it does not know it leaves out, and time does not go back.
    let moments = read(&format!("{header}[2.0,\"i\",\"x\"]\n[1.5,\"o\",\"a\"]\n[1.0,\"o\",\"b\"]\n"));
    let times: Vec<Duration> = moments.expect("a recording").iter().map(|moment| moment.at).collect();
    assert_eq!(times, [Duration::from_secs(2); 2]);
}

/// Fails when a recording can do more to the terminal of whoever looks than show something.
#[test]
fn a_terminal_is_told_what_it_shows() {
    for shown in [
        "plain text €\r\n\t\u{8}",
        "\u{1b}[1;31mred\u{1b}[0m\u{1b}[38:5:3m",
        "\u{1b}[2J\u{1b}[H\u{1b}[10;20f\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7;12h\u{1b}[4h\u{1b}[?69l",
        "\u{1b}7\u{1b}8\u{1b}M\u{1b}(0lqqk\u{1b}(B\u{1b}#8\u{1b}c",
    ] {
        assert_eq!(visible(shown), shown);
    }
    for (hidden, left) in [
        ("a\u{1b}]0;title\u{7}b", "ab"),
        ("a\u{1b}]52;c;ZXZpbA==\u{1b}\\b", "ab"),
        ("a\u{1b}P$q\"p\u{1b}\\b\u{1b}_x\u{1b}\\c\u{1b}^x\u{1b}\\", "abc"),
        ("a\u{9d}0;x\u{9c}b\u{90}x\u{7}c", "abc"),
        ("a\u{1b}[cb\u{1b}[6n\u{1b}[>q\u{1b}[18t\u{1b}[5i\u{1b}[?1$p", "ab"),
        ("a\u{1b}[?1000hb\u{1b}[?25;2004hc\u{1b}[>4;1m\u{1b}[!p\u{1b}Z\u{5}", "abc"),
        ("a\u{1b}[2hb\u{1b}[12;20hc\u{1b}[?9001hd\u{1b}[?4294968296le\u{1b}=f\u{1b}[?1h", "abcdef"),
        ("a\u{1b} Gb\u{1b}%@c", "abc"),
        ("a\u{1b}]0;x\u{1b}[31mb", "a\u{1b}[31mb"),
        ("a\u{1b}[31\u{18}b\u{9b}6nc\u{9b}1md", "abc\u{1b}[1md"),
    ] {
        assert_eq!(visible(hidden), left, "{hidden:?}");
    }
    // In pieces, and without an end.
    let mut calm = Calm::default();
    let pieces = ["a\u{1b}", "]0;", "secret\u{1b}", "\\b\u{1b}[", "1", "m\u{1b}]never ends"];
    let passed: String = pieces.iter().map(|piece| calm.pass(piece)).collect();
    assert_eq!(passed, "ab\u{1b}[1m");
    assert!(!visible(&format!("\u{1b}[{}m", "1;".repeat(10_000))).contains('\u{1b}'));
}
