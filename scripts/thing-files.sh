#!/usr/bin/env bash
# Key, request and certificate of a thing, in the directory that provision-thing or claim-thing fills:
# written so that a power cut leaves either what was or what is to be. Read by these scripts, which set
# name, dir, new, cert, key, request, record, config, csr and scratch, and have fail and filled_in.
# shellcheck disable=SC2154,SC1007,SC2015,SC2034

# What a rotation replaces together.
pair_files=(private.pem.key device.csr device.pem.crt provisioned-thing)
# Of these, what the mode of the key is for.
private_files=(private.pem.key)
# Settings of the programs for other runs would change what they do here. How to reach the broker may stay.
for variable in "${!IOT_@}"; do
    case ${variable#IOT_} in
    PORT | PROXY | BIND | MQTT_VERSION | TLS_MIN | CIPHERS | CONNECT_TIMEOUT | OPERATION_TIMEOUT) ;;
    *) unset "$variable" ;;
    esac
done

# For try_pair.
check_options=() try_again="mend that and run this again"

# put FILE MODE TEXT: all of it or nothing, and on the disk, not just on its way there. A symbolic link stays one.
put() {
    local temporary= file
    file=$(readlink -f "$1") || file=$1
    { temporary=$(mktemp "$dir/.provision-thing.XXXXXX") && printf '%s\n' "$3" >"$temporary" &&
        chmod "$2" "$temporary" && sync "$temporary" && mv -f "$temporary" "$file" && sync "$(dirname "$file")"; } 2>"$scratch/error" || {
        [[ -z $temporary ]] || rm -f "$temporary"
        fail 73 "$1: cannot be written: $(sed -n '$s/.*: //p' "$scratch/error"); mend that and run this again"
    }
}

# on_disk COMMAND...: a change in DIR that survives a power cut.
on_disk() {
    "$@" 2>"$scratch/error" && sync "$dir" ||
        fail 73 "$dir: cannot be changed: $(sed -n '$s/.*: //p' "$scratch/error"); mend that and run this again"
}

# Two runs at a time would undo each other's work. Also removes what a killed run has left.
lock_directory() {
    # Only the directory itself is private: others may pass through those above it.
    (umask 022 && mkdir -p "$(dirname "$dir")") 2>/dev/null && mkdir -p "$dir" 2>/dev/null && [[ -w $dir ]] || fail 73 "$dir: cannot be made or written; choose another directory"
    exec 9<"$dir"
    flock -n 9 || fail 75 "$dir: another ${0##*/} works on it; run this again when it has ended"
    rm -rf "$dir"/.provision-thing.*
    # Empty, if the run ended right after it had moved the first pair from there.
    rmdir "$new" 2>/dev/null || true
}

is_certificate() { [[ $1 =~ ^arn:[a-z-]+:iot:[a-z0-9-]+:[0-9]+:cert/[0-9a-f]{64}$ ]]; }

# By it AWS names a certificate.
fingerprint() { openssl x509 -noout -fingerprint -sha256 2>/dev/null | sed 's/.*=//; s/://g' | tr A-F a-f; }

# public_key DIRECTORY: that of the key there, or of the request if the key is elsewhere.
public_key() {
    if [[ -e $1/device.csr ]]; then
        openssl req -in "$1/device.csr" -noout -pubkey 2>/dev/null
    else
        openssl pkey -in "$1/private.pem.key" -passin pass: -pubout 2>/dev/null
    fi
}

# The key, or the request of one that is elsewhere, is on the disk before there is a certificate of it.
make_request() {
    local temporary
    if [[ -e $new ]]; then
        [[ -z $csr || "$(public_key "$new")" == "$csr_key" ]] ||
            fail 78 "$new: was begun with another key than that of $csr; run this without --csr, or remove it"
        return 0
    fi
    temporary=$(mktemp -d "$dir/.provision-thing.XXXXXX") || fail 73 "$dir: cannot be written; mend that and run this again"
    if [[ -n $csr ]]; then
        cp "$csr" "$temporary/device.csr"
    else
        openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$temporary/private.pem.key" 2>"$scratch/error" ||
            fail 69 "openssl: cannot make a key: $(tail -n 1 "$scratch/error")"
    fi
    sync "$temporary"/*
    sync "$temporary"
    on_disk mv -T "$temporary" "$new"
}

# The signing request of $new.
signing_request() {
    if [[ -e $new/device.csr ]]; then
        openssl req -in "$new/device.csr"
    else
        openssl req -new -key "$new/private.pem.key" -subj "/CN=$name"
    fi 2>"$scratch/error" || fail 69 "$new: openssl cannot make a signing request: $(tail -n 1 "$scratch/error")"
}

# try_pair DIRECTORY: does the broker accept it? A moment ago AWS did not know it; so for a while.
try_pair() {
    local code deadline=$((SECONDS + check_timeout)) pair=()
    command -v publisher >/dev/null || fail 69 "publisher: not found; install it, or put its directory into PATH"
    [[ ! -e $1/private.pem.key ]] || pair=(--cert "$1/device.pem.crt" --key "$1/private.pem.key")
    [[ ${#pair[@]} != 0 || $1 == "$dir" ]] || pair=(--cert "$1/device.pem.crt" --key "$(configured_key)")
    while true; do
        code=0
        publisher check --config "$config" "${pair[@]}" --client-id "$name" "${check_options[@]}" --allow-readable-key </dev/null >"$scratch/check" 2>&1 || code=$?
        ((code != 0)) || return 0
        # 78: the files. Waiting does not help.
        ((code != 78 && SECONDS < deadline)) || break
        sleep 2
    done
    fail "$code" "$1/device.pem.crt: is not accepted, and the pair in use is left as it is: $(sed -n 's/^FAILED *//p' "$scratch/check" | head -n 1); $try_again"
}

# The key of a pair whose key is elsewhere, in a TPM for example.
configured_key() {
    local path
    path=$(top_level key | sed 's/\\\(.\)/\1/g')
    [[ -n $path ]] || fail 78 "$config: names no key, and $new has none: the key is elsewhere; rotate where it is"
    [[ $path == /* ]] || path=$dir/$path
    printf %s "$path"
}

# top_level KEY: the string that the configuration has for it, as it is written there.
top_level() { sed -nE '/^\s*\[/q; /^\s*'"$1"'\s*=\s*"(([^"\\]|\\.)*)".*/{s//\1/p;q}' "$config"; }

# The directory can be moved: a relative path starts where the configuration is. $given_key is a key elsewhere.
new_config() {
    local elsewhere=${given_key-}
    echo "# For --config. Flags of both programs come here, those of one under [publisher] or [subscriber]."
    printf '%s = "%s"\n' endpoint "$(<"$endpoint")" certs . topic "$(filled_in "$topic")" client-id "$name"
    elsewhere=${elsewhere//\\/\\\\}
    [[ -z $elsewhere ]] || printf 'cert = "device.pem.crt"\nkey = "%s"\n' "${elsewhere//\"/\\\"}"
    printf '\n[subscriber]\n# Of two connections with one client identifier the broker ends the older.\nclient-id = "%s"\n' "$name-subscriber"
}
