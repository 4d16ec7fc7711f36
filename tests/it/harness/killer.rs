//! A kill after each step of a script, as by a power cut.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{moto::ScriptOutcome, temp_dir};

/// Programs that do their work and then kill the whole process group, once at each different step that changes
/// something.
pub(crate) struct Killer {
    programs: TempDir,
    steps: PathBuf,
}

impl Killer {
    pub(crate) fn new() -> Self {
        let programs = temp_dir();
        let steps = programs.path().join("steps");
        fs::write(&steps, "").unwrap();
        let text = r#"#!/bin/bash
name=${0##*/}
PATH=${PATH#*:} "$name" "$@"
code=$? last=${!#}
case "$name $*" in
aws*" create-"* | aws*" attach-"* | aws*" update-"* | aws*" detach-"* | aws*" delete-"*)
    for word; do case $word in create-* | attach-* | update-* | detach-* | delete-*) step="aws $word" && break ;; esac; done ;;
"aws "*) exit $code ;;
subscriber*) for word; do [[ $word != '$aws/'*/json ]] || step="$name $word"; done ;;
publisher*) step=$name ;;
*" $KILL_BELOW"*)
    [[ $last != *.provision-thing.* ]] || exit $code
    step="$name ${last#"$KILL_BELOW"} $(find "$KILL_BELOW" -name 'pair-*' | wc -l)" ;;
*) exit $code ;;
esac
step=$(sed 's/pair-[0-9a-f]*/pair-ID/' <<<"$step")
! grep -qxF -e "$step" "$KILL_STEPS" || exit $code
echo "$step" >>"$KILL_STEPS"
kill -KILL 0
"#;
        for name in ["aws", "mv", "rm", "mkdir", "publisher", "subscriber"] {
            let path = programs.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { programs, steps }
    }

    /// The steps after which it was killed.
    pub(crate) fn steps(&self) -> String {
        fs::read_to_string(&self.steps).unwrap()
    }

    /// Runs a script that works on `dir` again and again until it is not killed; after each kill, `check` is called.
    /// Returns the number of kills. `path` is where the programs are.
    pub(crate) fn run(
        &self,
        script: impl Fn() -> Command,
        path: &str,
        dir: &Path,
        check: impl Fn(),
    ) -> usize {
        for kills in 0..60 {
            let mut run = script();
            let path = format!("{}:{path}", self.programs.path().display());
            run.env("PATH", path)
                .env("KILL_BELOW", dir)
                .env("KILL_STEPS", &self.steps);
            let outcome = ScriptOutcome::of(run.output().unwrap());
            if outcome.code.is_some() {
                outcome.expect(0, &[]);
                return kills;
            }
            check();
        }
        panic!("it never ends: {}", self.steps());
    }
}
