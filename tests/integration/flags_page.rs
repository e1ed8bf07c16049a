//! docs/flags.md is what the commands print: `scripts/flags` makes it, and nobody writes it by hand.

use std::path::Path;
use std::process::Command;

#[test]
fn the_page_of_flags_is_what_the_commands_print() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Neither a variable's value nor the terminal's width gets in.
    let made = Command::new(root.join("scripts/flags"))
        .arg(env!("CARGO_BIN_EXE_sorsa"))
        .envs([("SORSA_PORT", "8123"), ("COLUMNS", "60")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made = String::from_utf8(made.stdout).unwrap();
    for text in ["## sorsa serve\n", "[env: SORSA_PORT=]", "--max-num-seqs <N>"] {
        assert!(made.contains(text), "there is no {text:?} in\n{made}");
    }
    let page = std::fs::read_to_string(root.join("docs/flags.md")).unwrap();
    let differs = made.lines().zip(page.lines()).position(|(made, page)| made != page);
    assert!(
        made == page,
        "docs/flags.md is not what the commands print (line {:?}): make it anew with `scripts/flags \
         >docs/flags.md`",
        differs.map(|index| index + 1)
    );
}
