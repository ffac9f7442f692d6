//! Records on their way: all of an organization's, or those that are newer than a revision. Text, one JSON object.
//!
//! Nothing here is verified: [`View`](super::View) does that.

use base64ct::{Base64, Encoding as _};
use serde::{Deserialize, Serialize};

use super::signed::Signed;
use super::wire::Malformed;

/// Longest text that is read. A record has about 400 bytes of it, so this is some 80,000 devices.
pub const SNAPSHOT_MAX_BYTES: usize = 32 << 20;

/// The only version of the text.
const VERSION: u32 = 1;

/// Records with their signatures, and the head that names them all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Only what is newer than this revision is there; 0 for everything.
    pub since: u64,
    /// The head.
    pub head: Signed,
    /// The records, in no certain order.
    pub records: Vec<Signed>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    since: u64,
    head: String,
    records: Vec<String>,
}

impl Snapshot {
    /// Its text, one line.
    #[must_use]
    pub fn to_text(&self) -> String {
        let text = |signed: &Signed| Base64::encode_string(&signed.pack());
        let text = Text {
            version: VERSION,
            since: self.since,
            head: text(&self.head),
            records: self.records.iter().map(text).collect(),
        };
        // Of numbers and texts there is always a JSON object.
        serde_json::to_string(&text).unwrap_or_default()
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is no such text, of another version, or longer than [`SNAPSHOT_MAX_BYTES`].
    pub fn parse(text: &[u8]) -> Result<Snapshot, Malformed> {
        const WHAT: &str = "snapshot";
        if text.len() > SNAPSHOT_MAX_BYTES {
            return Err(Malformed("snapshot: it is too long"));
        }
        let text: Text = serde_json::from_slice(text).map_err(|_| Malformed(WHAT))?;
        if text.version != VERSION {
            return Err(Malformed("snapshot: it is of another version"));
        }
        let signed = |text: &String| {
            let packed = Base64::decode_vec(text).map_err(|_| Malformed(WHAT))?;
            Signed::unpack(&packed)
        };
        let records = text.records.iter().map(signed).collect::<Result<_, _>>()?;
        Ok(Snapshot { since: text.since, head: signed(&text.head)?, records })
    }
}
