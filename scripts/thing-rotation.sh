#!/usr/bin/env bash
# provision-thing --rotate: a new pair of key and certificate, tried, then put in place of the old one.
# Each step leaves a directory with which programs connect, and from which the next run goes on.
# Read by provision-thing; claim-thing --replace switches to a new pair with it.
# shellcheck disable=SC2154,SC1007,SC2015,SC2034

# pairs: the earlier pairs, which are not in use any more.
pairs() {
    [[ ! -L $current ]] || find "$dir" -mindepth 1 -maxdepth 1 -type d -name 'pair-*' ! -name "$(readlink "$current")"
}

# What is in use becomes what three symbolic links show: each leads through $current, so one rename
# switches key, certificate and record. Before that, the files of a first pair become such links.
switch() {
    local file first target
    [[ -e $new/device.pem.crt ]] || fail 70 "$new/device.pem.crt: is not there, so $dir is left as it is; run this again"
    if [[ ! -L $current ]]; then
        [[ ! -e $current ]] || fail 78 "$current: is a directory, from a copy that followed symbolic links; remove it and run this again"
        first=$(pair_name "$dir")
        mkdir -p "$dir/$first"
        chmod --reference="$dir" "$dir/$first"
        ((EUID != 0)) || chown --reference="$dir" "$dir/$first"
        for file in "${pair_files[@]}"; do
            [[ ! -e $dir/$file ]] || ln -f "$dir/$file" "$dir/$first/$file"
        done
        sync "$dir/$first"
        ln -sfn "$first" "$dir/.provision-thing.link"
        on_disk mv -T "$dir/.provision-thing.link" "$current"
    fi
    for file in "${pair_files[@]}"; do
        [[ -e $current/$file || -e $new/$file ]] || continue
        [[ ! -L $dir/$file ]] || continue
        ln -sfn "pair/$file" "$dir/.provision-thing.link"
        on_disk mv -T "$dir/.provision-thing.link" "$dir/$file"
    done
    like_the_old_pair
    put "$current/replaced" 644 "$(date +%s)"
    target=$(pair_name "$new")
    # Once under its name, it is the pair in use: see finish_switch.
    put "$current/replaced-by" 644 "$target"
    on_disk mv -T "$new" "$dir/$target"
    finish_switch
}

# Whoever could read the old pair can read the new one, unless claim-thing has been given another group.
like_the_old_pair() {
    local file old
    chmod --reference="$dir" "$new"
    ((EUID != 0)) || { chown -R --reference="$(readlink -f "$cert")" "$new" && chown --reference="$dir" "$new"; }
    for file in "${private_files[@]}"; do
        old=$dir/$file
        [[ -e $old ]] || old=$key
        [[ -e $new/$file && -e $old ]] || continue
        chmod --reference="$(readlink -f "$old")" "$new/$file"
        ((EUID != 0)) || chown --reference="$(readlink -f "$old")" "$new/$file"
    done
    [[ -z ${group-} ]] || give_to_group
}

# The last step of a switch, also after a power cut before it.
finish_switch() {
    local target
    [[ -e $current/replaced-by ]] || return 0
    target=$(<"$current/replaced-by")
    [[ -d $dir/$target ]] || return 0
    ln -sfn "$target" "$dir/.provision-thing.link"
    on_disk mv -T "$dir/.provision-thing.link" "$current"
    did "changed: $dir has the pair of certificate ${target#pair-}…; programs use it from their next connection on"
}

# old_arn RECORD: the identifier of the certificate.
old_arn() {
    local found
    read -r _ found _ <"$1" && is_certificate "$found" || fail 78 "$1: does not hold a certificate"
    printf %s "${found##*/}"
}

# pair_name DIRECTORY: where its pair is kept, named after the certificate.
pair_name() {
    local id
    # In a command substitution set -e has no effect.
    if [[ -e $1/provisioned-thing ]]; then
        id=$(old_arn "$1/provisioned-thing") || return
    else
        id=$(fingerprint <"$1/device.pem.crt") || return
    fi
    printf %s "pair-${id:0:12}"
}

# wait_over SINCE: is the wait for retiring over? If not, says until when.
wait_over() {
    local until=$(($1 + retire_after))
    (($(date +%s) >= until)) || { echo "kept: certificate $id, $2 until $(date -d "@$until" '+%F %H:%M'); run this again after that" && return 1; }
}

# retire PAIR: makes its certificate inactive, and later deletes it.
retire() {
    local id arn status=
    id=$(old_arn "$1/provisioned-thing")
    read -r _ arn _ <"$1/provisioned-thing"
    [[ -e $1/replaced ]] || put "$1/replaced" 644 "$(date +%s)"
    ! try iot describe-certificate --certificate-id "$id" --query certificateDescription.status || status=$answer
    if [[ $status == ACTIVE ]]; then
        wait_over "$(<"$1/replaced")" "active" || return 0
        try_pair "$dir"
        put "$1/inactive" 644 "$(date +%s)"
        call iot update-certificate --certificate-id "$id" --new-status INACTIVE
        did "changed: certificate $id, inactive: the new one has connected"
    fi
    if [[ -n $status ]]; then
        [[ -e $1/inactive ]] || put "$1/inactive" 644 "$(date +%s)"
        wait_over "$(<"$1/inactive")" "inactive, can be activated again" || return 0
        call iot list-principal-things --principal "$arn" --query 'things[]'
        things=$answer
        delete_certificate || return 0
    fi
    rm -rf "$1"
    did "deleted: $1"
}

rotate() {
    local old_certificate age item pair again=
    lock_directory
    check_files
    [[ -n $arn ]] || fail 66 "$dir: has no certificate to replace; make one without --rotate"
    [[ -e $config ]] || fail 66 "$config: is not there, and the new pair is tried with it; run this without --rotate first"
    settle
    if [[ -e $current/replaced-by && ! -e $new ]]; then
        [[ $(readlink "$current") == "$(<"$current/replaced-by")" ]] || { finish_switch && identify; }
    fi
    while read -r pair; do
        again=1
        retire "$pair"
    done < <(pairs)
    [[ -z $again ]] || return 0
    if [[ ! -e $new && -n $max_age ]]; then
        age=$(($(date +%s) - $(date -d "$(openssl x509 -in "$cert" -noout -startdate | sed 's/.*=//')" +%s)))
        ((age >= max_age)) || { echo "nothing to do: certificate ${arn##*/} is $((age / 86400)) days old" && return 0; }
    fi
    [[ $status == ACTIVE ]] || fail 78 "$cert: AWS calls it $status; run this without --rotate first"
    [[ -z $csr || -e $request ]] || fail 64 "--csr: $key is here, and a new one is made here as well; leave --csr out"
    [[ -n $csr || -e $new || ! -e $request ]] || fail 64 "$request: the key is elsewhere; give a request of it, or of a new one, with --csr"
    old_certificate=$arn
    [[ -e $record ]] || put "$record" 644 "$name $arn $policy"
    make_certificate
    # What the old one may, the new one may.
    call iot list-attached-policies --target "$old_certificate" --query 'policies[].policyName'
    for item in $answer; do [[ $item == None ]] || call iot attach-policy --policy-name "$item" --target "$arn"; done
    for item in $things; do [[ $item != "$name" ]] || attach_thing; done
    [[ $status == ACTIVE ]] || call iot update-certificate --certificate-id "${arn##*/}" --new-status ACTIVE
    try_pair "$new"
    switch
    while read -r pair; do retire "$pair"; done < <(pairs)
    echo "next: reload packaged services, restart those that have a copy of the key (LoadCredential); then run this again to retire the old certificate"
}
