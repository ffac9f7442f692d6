//! A question of the gateway's to somebody at a terminal, and one line for an answer.

use bytes::Bytes;
use russh::ChannelWriteHalf;
use russh::server::Msg;

use super::inbox::Pieces;

/// Longest answer that is kept.
const ANSWER_BYTES: usize = 64;

/// End of text, end of transmission: Ctrl-C and Ctrl-D. Backspace, and what most terminals send for it.
const CANCEL: [u8; 2] = [3, 4];
const ERASE: [u8; 2] = [8, 127];

/// Asks, and reads a line as a terminal would. Nothing: it was given up, or nobody is there any more.
pub(super) async fn answer(channel: &ChannelWriteHalf<Msg>, input: &mut Pieces, question: &str) -> Vec<u8> {
    // Who does not hear it has gone.
    let _gone = channel.data_bytes(Bytes::from(question.replace('\n', "\r\n"))).await;
    let mut line = Vec::new();
    while let Some(piece) = input.next().await {
        let mut echo = Vec::new();
        let mut is_over = false;
        for byte in piece {
            match byte {
                b'\r' | b'\n' => is_over = true,
                byte if CANCEL.contains(&byte) => {
                    line.clear();
                    is_over = true;
                }
                // Where nothing was typed there is nothing to erase.
                byte if ERASE.contains(&byte) && line.pop().is_some() => echo.extend_from_slice(b"\x08 \x08"),
                b' '..=b'~' if line.len() < ANSWER_BYTES => {
                    line.push(byte);
                    echo.push(byte);
                }
                _ => {}
            }
            if is_over {
                echo.extend_from_slice(b"\r\n");
                break;
            }
        }
        let _gone = channel.data_bytes(Bytes::from(echo)).await;
        if is_over {
            return line;
        }
    }
    Vec::new()
}
