//! Tests that pages name: a column headed `test`, or with that word first, says which test shows what its row claims.
//!
//! `module::name` is a test of the binary that the text above the table named last, `` `name` of `binary` `` one of
//! another. Binaries are those of `crates/portway/tests`, and `netns_mesh`, which lists its tests in a table of its own;
//! a crate (`crates/compose`) stands for all tests in it.

use std::fs;
use std::path::Path;

/// The binary of tests that is its own harness.
const OWN_HARNESS: &str = "netns_mesh";

/// Names in a page for which there is no test, each with its line.
pub(crate) fn faults(root: &Path, page: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let (mut binary, mut columns) = (String::new(), Vec::new());
    let mut is_head = true;
    for (number, line) in text.lines().enumerate() {
        if !line.starts_with('|') {
            (columns, is_head) = (Vec::new(), true);
            binary = quoted(line)
                .map(|(word, _)| word)
                .rfind(|word| is_binary(word))
                .map_or(binary, str::to_owned);
            continue;
        }
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        if std::mem::take(&mut is_head) {
            let is_test = |cell: &&str| cell.split(' ').next() == Some("test");
            columns = (0..cells.len()).filter(|at| cells.get(*at).is_some_and(is_test)).collect();
            continue;
        }
        let named = columns.iter().filter_map(|at| cells.get(*at)).flat_map(|cell| quoted(cell));
        for (name, of) in named.filter(|(word, _)| !is_binary(word)) {
            let of = of.unwrap_or(&binary);
            if !is_there(root, of, name) {
                faults.push(format!("{page}:{}: there is no test {name} in {of}", number + 1));
            }
        }
    }
    faults
}

/// Words between backticks, each with the one that follows it after ` of `.
fn quoted(text: &str) -> impl DoubleEndedIterator<Item = (&str, Option<&str>)> {
    let parts: Vec<&str> = text.split('`').collect();
    let words = (1..parts.len()).step_by(2).map(|at| {
        let of = (parts.get(at + 1) == Some(&" of ")).then(|| parts.get(at + 2).copied()).flatten();
        (parts[at], of)
    });
    words.collect::<Vec<_>>().into_iter()
}

fn is_binary(word: &str) -> bool {
    ["incus_", "netns_", "crates/"].iter().any(|kind| word.starts_with(kind)) && !word.contains("::")
}

/// Whether a binary of tests has one of this name.
fn is_there(root: &Path, binary: &str, name: &str) -> bool {
    if binary.starts_with("crates/") {
        return is_below(&root.join(binary), name);
    }
    if binary == OWN_HARNESS {
        return is_listed(&root.join("crates/mesh/tests").join(binary), name);
    }
    let tests = root.join("crates/portway/tests");
    let (file, name) = match name.rsplit_once("::") {
        Some((module, name)) => {
            (tests.join(binary).join(module.replace("::", "/")).with_extension("rs"), name)
        }
        None => (tests.join(binary).with_extension("rs"), name),
    };
    fs::read_to_string(file).is_ok_and(|text| has_test(&text, name))
}

/// Whether a file below `dir` has a test of this name.
fn is_below(dir: &Path, name: &str) -> bool {
    any_source(dir, &|text| has_test(text, name))
}

/// Whether a table below `dir` has a line for a test of this name.
fn is_listed(dir: &Path, name: &str) -> bool {
    any_source(dir, &|text| text.lines().any(|line| line.trim().starts_with(&format!("(\"{name}\", "))))
}

fn any_source(dir: &Path, good: &dyn Fn(&str) -> bool) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.flatten().map(|entry| entry.path()).any(|path| {
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        path.is_dir() && any_source(&path, good)
            || is_source && fs::read_to_string(&path).is_ok_and(|text| good(&text))
    })
}

/// A function of this name with `#[test]` above it.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_it = |line: &&str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ").is_some_and(|rest| rest.starts_with(&format!("{name}(")))
    };
    let at = lines.iter().position(is_it);
    let above = at.map(|at| lines[..at].iter().rev().take_while(|line| line.starts_with("#[")));
    above.is_some_and(|mut above| above.any(|line| *line == "#[test]" || line.starts_with("#[tokio::test")))
}

#[cfg(test)]
mod tests {
    use super::faults;

    /// Fails when a test that is not there passes for one, or a table of something else is read.
    #[test]
    fn a_test_that_is_not_there_is_a_fault() {
        let root = tempfile::tempdir().expect("a folder");
        let tests = root.path().join("crates/portway/tests");
        std::fs::create_dir_all(tests.join("incus_ssh")).expect("made");
        let of_crate = root.path().join("crates/x/src/deep");
        std::fs::create_dir_all(&of_crate).expect("made");
        std::fs::write(of_crate.join("tests.rs"), "#[tokio::test]\nasync fn five() {}\nfn six() {}\n")
            .expect("written");
        let source = "#[test]\nfn one() {}\n\n#[test]\n#[ignore = \"x\"]\nfn two() {}\nfn three() {}\n";
        std::fs::write(tests.join("incus_ssh/walk.rs"), source).expect("written");
        std::fs::write(tests.join("netns_x.rs"), source).expect("written");
        let own = root.path().join("crates/mesh/tests/netns_mesh");
        std::fs::create_dir_all(&own).expect("made");
        std::fs::write(own.join("main.rs"), "fn nine() {}\n    (\"eight\", || nine()),\n").expect("written");
        let page = "Tests of `incus_ssh`, others of `x`.\n\n| claim | test |\n|---|---|\n\
            | `a::b` | `walk::one`, `walk::two` |\n| a | `one` of `netns_x` and `walk::one` |\n\
            | a | `walk::three` |\n| a | `gone::one` |\n| a | `four` of `netns_x` |\n\
            | a | `five` of `crates/x`, `six` of `crates/x`, `five` of `crates/y` |\n\n\
            | name | value |\n|---|---|\n| `walk::nothing` | `walk::nothing` |\n\n\
            Tests of `netns_mesh`.\n\n| a | test on K | test on S |\n|---|---|---|\n\
            | `x` | `eight` | `seven` |\n| x | `nine` | `eight` and none |\n";
        let found = faults(root.path(), "p.md", page);
        let expected = [
            "p.md:7: there is no test walk::three in incus_ssh",
            "p.md:8: there is no test gone::one in incus_ssh",
            "p.md:9: there is no test four in netns_x",
            "p.md:10: there is no test six in crates/x",
            "p.md:10: there is no test five in crates/y",
            "p.md:20: there is no test seven in netns_mesh",
            "p.md:21: there is no test nine in netns_mesh",
        ];
        assert_eq!(found, expected);
    }
}
