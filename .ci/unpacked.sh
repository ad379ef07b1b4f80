# Sourced by helm.sh and qemu.sh: something that is unpacked into a folder of .cache, complete or not at all.
#
# home: the folder; program: the file in it by which one knows that it is there; what: its name in a line of text.

refusal=$home.unavailable # why the last try failed; repeated for an hour instead of trying again at every `make`

give_up() {
    echo "setup: no $what: $*; tests that need it fail in CI and are skipped elsewhere (try again: rm $refusal)" |
        tee "$refusal" >&2
    exit 1
}

leave_if_settled() { # it is there, or could not be had lately; else what a killed run left is removed
    if [ -x "$home/$program" ]; then
        exit
    fi
    if [ -n "$(find "$refusal" -mmin -60 2>/dev/null)" ]; then
        cat "$refusal" >&2
        exit 1
    fi
    mkdir -p .cache
    rm -rf "$refusal" "$home" "$home".work.*
}
