use avt::Terminal;

use super::*;

/// Types, and hears what comes of it.
fn typed(editor: &mut Editor, text: &str) -> Vec<Done> {
    text.bytes().filter_map(|byte| editor.byte(byte)).collect()
}

fn of(keys: &str) -> String {
    let mut editor = Editor::new("> ", Vec::new(), 80);
    let done = typed(&mut editor, &format!("{keys}\r"));
    match done.as_slice() {
        [Done::Line(line)] => line.clone(),
        other => unreachable!("{keys:?}: {other:?}"),
    }
}

/// Fails when a key does something else than people are used to.
#[test]
fn keys_edit_the_line() {
    for (keys, line) in [
        ("list", "list"),
        ("lisx\x7ft", "list"),
        ("lit\x1b[Ds", "list"),
        ("ist\x01l", "list"),
        ("ist\x1b[Hl\x1b[F c", "list c"),
        ("listx\x1b[D\x1b[3~", "list"),
        ("listx\x1b[D\x04", "list"),
        ("x y\x15list", "list"),
        ("list x\x01\x1bf\x0b", "list"),
        ("list one\x17two", "list two"),
        ("list one\x1b\x7ftwo", "list two"),
        ("one two\x1bb\x1bb\x1bd", " two"),
        ("a b\x17\x19\x19", "a bb"),
        ("a\x1b[1;5Db\x1bOCc", "bac"),
        ("gr\u{fc}\u{df}e\x7f\x7f\u{df}", "gr\u{fc}\u{df}"),
        ("a\x1b[99;99;99ub", "ab"),
        ("a\x1b\x1b[Db", "ba"),
        ("\x00\x1d\x1fa", "a"),
    ] {
        assert_eq!(of(keys), line, "{keys:?}");
    }
    let mut editor = Editor::new("> ", Vec::new(), 80);
    assert_eq!(typed(&mut editor, "a\r\nb\n"), [Done::Line("a".to_owned()), Done::Line("b".to_owned())]);
    let odd: Vec<_> =
        [0xff, 0xc3, b'a', 0xe2, 0x82, b'\r'].into_iter().filter_map(|byte| editor.byte(byte)).collect();
    assert_eq!(odd, [Done::Line("a".to_owned())]);
}

/// Fails when Ctrl-C or Ctrl-D loses somebody his shell, or keeps him in it.
#[test]
fn what_ends_and_what_clears() {
    let mut editor = Editor::new("> ", Vec::new(), 80);
    assert!(typed(&mut editor, "abc\x03").is_empty() && editor.line().is_empty());
    assert!(editor.output().contains("abc\x1b[K\r\x1b[5C^C\r\n"));
    assert_eq!(typed(&mut editor, "\x03"), [Done::Leave]);
    assert_eq!(typed(&mut editor, "\x04"), [Done::Leave]);
    assert_eq!(typed(&mut editor, "\x1b\x03"), [Done::Leave]);
}

/// Fails when what was typed before is not to be had, or secrets are.
#[test]
fn what_was_typed_comes_back() {
    let mut editor = Editor::new("> ", vec!["one".to_owned(), "two".to_owned()], 80);
    let mut after = |keys: &str| {
        typed(&mut editor, keys);
        editor.line()
    };
    assert_eq!(after("draft\x1b[A"), "two");
    assert_eq!(after("\x10\x10\x10"), "one");
    assert_eq!(after("\x0e\x1b[B\x1b[B"), "draft");
    assert_eq!(after("\r"), "");
    assert_eq!(after("\x1b[A"), "draft");
    assert_eq!(after("\x15config set c user.pw=x\r hidden\r\r\x1b[A"), "draft");
    for number in 0..2 * HISTORY {
        typed(&mut editor, &format!("\x15{number}\r"));
    }
    assert_eq!(editor.history.len(), HISTORY);
}

/// Fails when a terminal shows something else than what is typed, or the cursor is elsewhere.
#[test]
fn the_terminal_shows_the_line() {
    let mut editor = Editor::new("incus> ", Vec::new(), 30);
    let mut terminal = Terminal::with_scrollback(30, 5, None).expect("a terminal");
    let mut shows = |editor: &mut Editor, keys: &str| {
        typed(editor, keys);
        terminal.feed(editor.output());
        let cursor = terminal.cursor();
        let lines: Vec<String> =
            terminal.screen().visible_lines().map(|line| line.text().trim_end().to_owned()).collect();
        (lines[cursor.row].clone(), cursor.col, cursor.row)
    };
    assert_eq!(shows(&mut editor, ""), ("incus>".to_owned(), 7, 0));
    assert_eq!(shows(&mut editor, "list"), ("incus> list".to_owned(), 11, 0));
    assert_eq!(shows(&mut editor, "\x02\x02\u{6f22}"), ("incus> li\u{6f22}st".to_owned(), 11, 0));
    assert_eq!(shows(&mut editor, "\x7f\x15\x0b"), ("incus>".to_owned(), 7, 0));
    let (line, column, row) = shows(&mut editor, &"0123456789".repeat(10));
    assert!(
        line.starts_with("incus> ") && line.ends_with('9') && column <= 29 && row == 0,
        "{line} {column} {row}"
    );
    let (line, column, row) = shows(&mut editor, "\x01");
    assert_eq!((line.as_str(), column, row), ("incus> 0123456789012345678901", 7, 0));
    editor.resize(20);
    let (line, ..) = shows(&mut editor, "\x05");
    assert!(line.ends_with('9') && line.len() <= 30, "{line}");
}

/// Fails when a completion is not taken, takes what was not meant, or what there is is not shown.
#[test]
fn completion() {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let mut editor = Editor::new("> ", Vec::new(), 20);
    assert_eq!(typed(&mut editor, "st\t"), [Done::Complete("st".to_owned())]);
    editor.complete(0, &words(&["start", "stop"]));
    assert_eq!(editor.line(), "st");
    let output = editor.output();
    assert!(output.contains("start  stop\r\n"), "{output:?}");
    typed(&mut editor, "o\t");
    editor.complete(0, &words(&["stop"]));
    assert_eq!(editor.line(), "stop ");
    typed(&mut editor, "c");
    editor.complete(5, &words(&["cat-1", "cat-2"]));
    assert_eq!(editor.line(), "stop cat-");
    // What makes no sense changes nothing.
    editor.complete(5, &words(&["dog"]));
    editor.complete(99, &words(&["cat-1"]));
    editor.complete(0, &[]);
    assert_eq!(editor.line(), "stop cat-");
    let mut editor = Editor::new("> ", Vec::new(), 80);
    typed(&mut editor, "config set c lim x\x02\x02");
    editor.complete(13, &words(&["limits.cpu="]));
    assert_eq!(editor.line(), "config set c limits.cpu= x");
}

/// Fails when a line grows for ever.
#[test]
fn a_line_has_an_end() {
    let mut editor = Editor::new("> ", Vec::new(), 80);
    typed(&mut editor, &"\u{20ac}".repeat(LINE_BYTES));
    assert!(editor.line().len() <= LINE_BYTES);
    assert!(editor.output().len() < 1000);
}
