use avt::Terminal;

use super::*;

fn size(columns: u16, rows: u16) -> Size {
    Size { columns, rows, width: 0, height: 0 }
}

/// A viewer's terminal that was shown this.
fn shown(pieces: &[&[u8]], columns: usize, rows: usize) -> Terminal {
    let mut terminal = Terminal::with_scrollback(columns, rows, None).expect("a size");
    // It has been used before.
    terminal.feed("old\x1b[31m\x1b[5;10r\x1b[?1049hleft\x1b[?25l\x1b(0");
    for piece in pieces {
        terminal.feed(str::from_utf8(piece).expect("text"));
    }
    terminal
}

fn take(screen: &mut Screen, text: &str) -> Vec<(char, Vec<u8>)> {
    let mut said = Vec::new();
    screen.take(text.as_bytes(), false, |to| match to {
        To::All(bytes) => said.push(('a', bytes.to_vec())),
        To::Leader(bytes) => said.push(('l', bytes.to_vec())),
        To::Program(bytes) => said.push(('p', bytes.to_vec())),
    });
    said
}

/// What one sees, and where the cursor is.
fn seen(terminal: &Terminal) -> (Vec<String>, usize, usize, bool) {
    let lines = terminal.screen().visible_lines().map(|line| line.text().trim_end().to_owned()).collect();
    let cursor = terminal.cursor();
    (lines, cursor.col, cursor.row, cursor.visible)
}

/// Fails when a viewer that comes sees something else than one that was there from the beginning.
#[test]
fn who_comes_sees_what_who_was_there_sees() {
    let programs = [
        "plain\r\n$ ls\r\n\x1b[1;34mdir\x1b[0m file",
        "one\r\ntwo\x1b[?1049h\x1b[H\x1b[2J\x1b[7m-- vim --\x1b[0m\x1b[3;5Hhere\x1b[?25l",
        "\x1b(0lqqk\x1b(B\r\nwide \u{4f60}\u{597d} \u{1f600}!\x1b[2;8r\x1b[8;3H",
        "\x1b[5;9r\x1b[?6h\x1b[2;2Hinside\x1b[4hx",
        &"line that is longer than the terminal is wide, so that it goes on\r\n".repeat(9),
        "\x1b[1;1H\x1b[44m\x1b[2Jblue\x1b[K\x1b[3;1H==========",
        "12345678901234567890123456789012345678901234567890",
    ];
    for program in programs {
        let mut screen = Screen::new(size(40, 10));
        let mut there = Terminal::new(40, 10).expect("a size");
        take(&mut screen, program);
        there.feed(program);
        let come = shown(&[&screen.picture(true)], 40, 10);
        assert_eq!(seen(&come), seen(&there), "{program:?}");
        // What is written later goes to the same place.
        let (mut come, mut there) = (come, there);
        for terminal in [&mut come, &mut there] {
            terminal.feed("\x1b[31mmore\r\n\u{2502}\x1b[?1049lafter");
        }
        assert_eq!(seen(&come), seen(&there), "{program:?} and more");
    }
}

/// Fails when what has scrolled away is lost, comes twice, or grows without a bound.
#[test]
fn the_past_is_there_and_bounded() {
    let mut screen = Screen::new(size(40, 10));
    let lines: String = (0..5000).map(|n| format!("\x1b[3{}mline {n}\x1b[m\r\n", n % 8)).collect();
    take(&mut screen, &lines);
    take(&mut screen, "$ ");
    let picture = screen.picture(true);
    let come = shown(&[&picture], 40, 10);
    let text = come.screen().text();
    let numbers: Vec<usize> =
        text.iter().filter_map(|line| line.trim().strip_prefix("line ")?.parse().ok()).collect();
    let first = 5000 - PAST_MAX_COUNT - 9;
    assert_eq!(numbers, (first..5000).collect::<Vec<_>>());
    let is_in = |part: &str| str::from_utf8(&picture).expect("text").contains(part);
    assert!(is_in("\x1b[0;38;5;3mline 4403"), "it has its colours");
    assert!(!str::from_utf8(&screen.picture(false)).expect("text").contains("line 4403"));
    take(&mut screen, &"\x1b[38;2;1;2;3mx\x1b[38;2;3;2;1my".repeat(400_000));
    assert!(screen.past.bytes <= PAST_MAX_BYTES && screen.picture(true).len() < 2 * PAST_MAX_BYTES);
    take(&mut screen, "\x1b[3J");
    assert_eq!((screen.past.lines.len(), screen.past.bytes), (0, 0));
}

/// Fails when a mode is forgotten, or one that was set before stays.
#[test]
fn modes_are_told() {
    let mut screen = Screen::new(size(40, 10));
    take(
        &mut screen,
        "\x1b[?2004h\x1b[?1000;1006h\x1b[?1006l\x1b=\x1b[4 q\x1b]2;ti\x07tle\x1b]0;a\u{e4}b\x1b\\\x1b[>4;2m",
    );
    let picture = String::from_utf8(screen.picture(false)).expect("text");
    let at = |part: &str| picture.rfind(part);
    for set in ["\x1b[?2004h", "\x1b[?1000h", "\x1b=", "\x1b[4 q", "\x1b]0;a\u{e4}b\x07", "\x1b[>4;2m"] {
        assert!(at(set).is_some(), "{set:?} in {picture:?}");
    }
    assert!(at("\x1b[?1006l") > at("\x1b[?1006h") && at("\x1b[?1000h") > at("\x1b[?1000l"));
    assert_eq!(screen.title(), "a\u{e4}b");
    assert!(!screen.farewell().is_empty());
    take(&mut screen, "\x1bc");
    let picture = String::from_utf8(screen.picture(false)).expect("text");
    assert!(!picture.contains("\x1b[?2004h") && screen.farewell().is_empty(), "{picture:?}");
}

/// Fails when nobody answers a program that nobody looks at, or several do.
#[test]
fn a_question_has_one_answer() {
    let mut screen = Screen::new(size(40, 10));
    let said = take(&mut screen, "ab\x1b[6nc\x1b[0c\x1b[5n\x1b]11;?\x07");
    let answers: Vec<_> =
        said.iter().filter(|(to, _)| *to == 'p').map(|(_, bytes)| bytes.as_slice()).collect();
    assert_eq!(answers, [&b"\x1b[1;3R"[..], KIND, b"\x1b[0n"]);
    let mut watched = Vec::new();
    screen.take(b"x\x1b[6ny", true, |to| watched.push(format!("{to:?}")));
    assert_eq!(watched.len(), 3);
    assert!(watched[1].starts_with("Leader"), "{watched:?}");
}

#[test]
fn a_size_has_bounds_and_another_one_keeps_what_is_there() {
    let mut screen = Screen::new(size(0, 0));
    assert_eq!((screen.size().columns, screen.size().rows), (80, 24));
    take(&mut screen, &"word ".repeat(20));
    assert!(screen.resize(size(20, 5)) && !screen.resize(size(20, 5)));
    let come = shown(&[&screen.picture(true)], 20, 5);
    assert_eq!(come.screen().text().concat().matches("word").count(), 20);
    assert!(screen.resize(size(u16::MAX, u16::MAX)));
    assert_eq!((screen.size().columns, screen.size().rows), (COLUMNS_MAX, ROWS_MAX));
}

/// Fails when a character is repeated more often than can be seen, or a sequence of few bytes costs as much as a million.
#[test]
fn a_repetition_ends_with_the_screen() {
    for text in ["a\x1b[65535b", "a\x1b[655\x0735b", "a\u{9b}65535;1b", "\x1b]0;x\x1b[1b\x07a\x1b[0065535b"] {
        let mut screen = Screen::new(size(40, 10));
        take(&mut screen, text);
        let lines = seen(&screen.terminal).0;
        assert!(lines[..9].iter().all(|line| *line == "a".repeat(40)), "{text:?}: {lines:?}");
        assert!(screen.past.bytes <= 80, "{text:?}: {}", screen.past.bytes);
    }
    let mut screen = Screen::new(size(40, 10));
    take(&mut screen, "a\x1b[3b\r\nb\x1b[399bc");
    let mut there = Terminal::new(40, 10).expect("a size");
    there.feed("a\x1b[3b\r\nb\x1b[399bc");
    assert_eq!(seen(&screen.terminal), seen(&there), "what fits is as it was");
    // A minute without bounds.
    let mut screen = Screen::new(size(COLUMNS_MAX, ROWS_MAX));
    let begin = std::time::Instant::now();
    take(&mut screen, &format!("a{}", "\x1b[65535b".repeat(8_000)));
    assert!(begin.elapsed() < std::time::Duration::from_secs(10), "{:?}", begin.elapsed());
}

/// Whatever a program writes, however it comes, ends well.
#[test]
fn anything_may_be_written() {
    let mut state = 0x9e37_79b9_u32;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    let alphabet = b"\x1b\x1b\x1b[[]?;>=!$ 0123456789hlmnqcprJKHABCDPXMLst\x07\\\x9b\xe2\x82\xac\xf0\x9f\x98\x80\xff\r\nz";
    let mut screen = Screen::new(size(30, 8));
    for round in 0..3000_u32 {
        let length = random() % 60;
        let bytes: Vec<u8> = (0..length).map(|_| alphabet[random() as usize % alphabet.len()]).collect();
        screen.take(&bytes, round % 2 == 0, |_| {});
        if round % 50 == 0 {
            screen.resize(size((random() % 90) as u16, (random() % 40) as u16));
            let picture = screen.picture(round % 100 == 0);
            assert!(str::from_utf8(&picture).is_ok());
        }
    }
}
