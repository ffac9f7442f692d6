//! How the table looks to a person: `nft list table`, by the nft of this machine and by that of Debian 13.

mod publish;

use std::process::Command;

use portway_nat::{Nat, TableName};
use portway_testkit::{Netns, is_root, require, testbed};

/// The table of ten devices reads the same in both, as docs/nat.md shows it, and neither complains.
///
/// Fails when: a set is given user data that one of them cannot read, a register is used in a way that a
/// listing does not follow, or the names of the document are not those of the code.
#[test]
fn ten_devices_read_the_same_in_both() {
    if !is_root() {
        return;
    }
    let Some(newer) = testbed::newer_root() else {
        require("needs the root of the test servers: cargo xtask testbed up incus7");
        return;
    };
    let netns = Netns::new().unwrap();
    let want = publish::ten_devices();
    netns.enter(|| Nat::open(TableName::default()).unwrap().apply(&want).map(drop)).unwrap().unwrap();
    let mut chroot = Command::new("chroot");
    for command in [&mut Command::new("nft"), chroot.arg(newer).arg("nft")] {
        command.args(["list", "table", "inet", "portway"]);
        let output = netns.enter(|| command.output()).unwrap().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        // The older one knows the name of this priority at one hook only.
        let listed =
            String::from_utf8(output.stdout).unwrap().replace("priority -99;", "priority dstnat + 1;");
        let document = include_str!("../../../docs/nat.md");
        let shown = document.split("```nft\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        assert_eq!(listed.trim_end(), shown.trim_end(), "docs/nat.md shows another table");
    }
}
