//! What of a recording a terminal is told: what it shows, and nothing that it would answer, keep or do.
//!
//! A program that was recorded may have written for whoever looks at it later. Colours, places and modes of the screen
//! pass; texts for the terminal itself (its title, the clipboard, keys, files; ECMA-48, 5.6) and questions that it
//! would answer as if it had been typed do not.

/// Longest sequence that is passed on, bytes.
const SEQUENCE_BYTES: usize = 256;

/// Ends of control sequences (CSI) that change what is shown, and nothing else: ECMA-48, 8.3, and modes of DEC's.
const SHOWN: &[u8] = b"@ABCDEFGHIJKLMPSTXZ`abdefghlmrsu";

/// Modes of DEC's and xterm's that are the screen's: columns, scrolling, inverse, origin, wrap, cursor, the other screen,
/// margins, pictures that are drawn at once.
const SCREEN_MODES: &[&str] =
    &["3", "5", "6", "7", "12", "25", "45", "47", "69", "1047", "1048", "1049", "2026"];

/// Passes on what is only shown. What is begun in one piece may end in the next.
#[derive(Debug, Default)]
pub struct Calm {
    state: State,
    sequence: String,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    Escape,
    /// ESC and an intermediate byte: a character set, or a test of the screen.
    Choice,
    Control,
    /// A text for the terminal: it ends with BEL or ESC \.
    String,
    StringEscape,
}

impl Calm {
    /// What of `text` is shown.
    pub fn pass(&mut self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        text.chars().for_each(|char| self.take(char, &mut shown));
        shown
    }

    fn take(&mut self, char: char, shown: &mut String) {
        match (self.state, char) {
            // Whatever was begun: these end it (ECMA-48, 5.5; xterm does it so).
            (_, '\u{18}' | '\u{1a}') => self.end(),
            (State::String, '\u{7}' | '\u{9c}') => self.end(),
            (State::String, '\u{1b}') => self.state = State::StringEscape,
            (State::StringEscape, '\\') => self.end(),
            (State::StringEscape, _) => {
                // ESC ends the text, and begins something.
                self.begin();
                self.take(char, shown);
            }
            (State::String, _) => {}
            (_, '\u{1b}') => self.begin(),
            (State::Text, '\u{9b}') => {
                self.begin();
                self.state = State::Control;
                self.sequence.push('[');
            }
            (State::Text, '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}') => self.state = State::String,
            // Bells and other controls of one byte; ENQ is a question.
            (State::Text, char)
                if char.is_control() && !"\u{7}\u{8}\t\n\u{b}\u{c}\r\u{e}\u{f}".contains(char) => {}
            (State::Text, char) => shown.push(char),
            (State::Escape, ']' | 'P' | 'X' | '^' | '_') => {
                self.sequence.clear();
                self.state = State::String;
            }
            (State::Escape, '[') => {
                self.sequence.push('[');
                self.state = State::Control;
            }
            (State::Escape, '(' | ')' | '*' | '+' | '#' | '%' | ' ') => {
                self.sequence.push(char);
                self.state = State::Choice;
            }
            // ESC Z asks who is there; ESC c is a reset, which is shown.
            (State::Escape, '7' | '8' | 'c' | 'D' | 'E' | 'H' | 'M') => {
                self.sequence.push(char);
                self.flush(shown);
            }
            // How the terminal writes and reads is not chosen (ESC SP, ESC %).
            (State::Choice, '0'..='~') if !self.sequence.ends_with([' ', '%']) => {
                self.sequence.push(char);
                self.flush(shown);
            }
            (State::Escape | State::Choice, _) => self.end(),
            (State::Control, '\u{40}'..='\u{7e}') => {
                self.sequence.push(char);
                if self.is_shown() {
                    self.flush(shown);
                }
                self.end();
            }
            (State::Control, '\u{20}'..='\u{3f}') if self.sequence.len() < SEQUENCE_BYTES => {
                self.sequence.push(char)
            }
            (State::Control, _) => self.end(),
        }
    }

    fn begin(&mut self) {
        self.sequence.clear();
        self.sequence.push('\u{1b}');
        self.state = State::Escape;
    }

    fn end(&mut self) {
        self.sequence.clear();
        self.state = State::Text;
    }

    fn flush(&mut self, shown: &mut String) {
        shown.push_str(&self.sequence);
        self.end();
    }

    /// Whether a control sequence is only shown: one with an intermediate byte, or a private one but for modes, is not.
    fn is_shown(&self) -> bool {
        let bytes = self.sequence.as_bytes();
        let Some((last, rest)) = bytes.split_last() else { return false };
        let parameters = rest.get(2..).unwrap_or_default();
        let is_plain = parameters.iter().all(|byte| matches!(byte, b'0'..=b'9' | b';' | b':'));
        let is_mode = parameters.first() == Some(&b'?')
            && parameters.iter().skip(1).all(|byte| matches!(byte, b'0'..=b'9' | b';'))
            && matches!(last, b'h' | b'l')
            && self.modes_are_of(SCREEN_MODES);
        let is_plain = is_plain && (!matches!(last, b'h' | b'l') || self.modes_are_of(&["4"]));
        (is_plain && SHOWN.contains(last)) || is_mode
    }

    /// Whether all modes are among these. Any other may be one of the keyboard, or make the terminal say something.
    fn modes_are_of(&self, known: &[&str]) -> bool {
        let text =
            self.sequence.trim_start_matches(['\u{1b}', '\u{9b}', '[', '?']).trim_end_matches(['h', 'l']);
        text.split(';').all(|mode| known.contains(&mode))
    }
}

/// The same of a text that is whole.
#[must_use]
pub fn visible(text: &str) -> String {
    Calm::default().pass(text)
}
