//! The claim certificate of the document on `scripts/claim-thing`, in the control plane.
//!
//! The provisioning template, its role and `create-provisioning-claim` are made there too. moto 5.2 has none
//! of `create-provisioning-template`, `create-provisioning-claim` and `register-thing`; what the documents use of it
//! besides, the claim certificate and its policy, is tested against moto.

use std::fs;

use crate::harness::{Fleet, fleet, moto::Moto};

#[test]
fn the_claim_certificate_and_its_policy_are_made_in_the_control_plane() {
    let moto = Moto::start();
    let made = moto.aws(&["iot", "create-keys-and-certificate", "--set-as-active"]);
    let arn = made["certificateArn"].as_str().unwrap();
    let operations =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let (_, policy) = operations
        .split_once("cat >claim-policy.json <<'END'\n")
        .unwrap();
    let (policy, _) = policy.split_once("END\n").unwrap();
    moto.aws(&[
        "iot",
        "create-policy",
        "--policy-name",
        "claim",
        "--policy-document",
        policy,
    ]);
    moto.aws(&[
        "iot",
        "attach-policy",
        "--policy-name",
        "claim",
        "--target",
        arn,
    ]);
    let attached = moto.aws(&["iot", "list-attached-policies", "--target", arn]);
    assert_eq!(attached["policies"][0]["policyName"], "claim");
    // What the document allows is what the script uses.
    let fleet = Fleet::new("pumps", &[]);
    let policy: serde_json::Value = serde_json::from_str(policy).unwrap();
    let resources = |action: &str| -> Vec<String> {
        let statements = policy["Statement"].as_array().unwrap();
        let of_action = statements.iter().filter(|of| of["Action"] == action);
        let resources = of_action.flat_map(|of| of["Resource"].as_array().unwrap());
        let resources = resources.map(|resource| resource.as_str().unwrap());
        resources
            .map(|arn| arn.splitn(6, ':').nth(5).unwrap().to_owned())
            .collect()
    };
    let requests = [fleet::CREATE.to_owned(), fleet.provision_topic()];
    let expected = |kind: &str, end: &str| requests.clone().map(|t| format!("{kind}/{t}{end}"));
    assert_eq!(resources("iot:Publish"), expected("topic", ""));
    assert_eq!(resources("iot:Receive"), expected("topic", "/*"));
    assert_eq!(resources("iot:Subscribe"), expected("topicfilter", "/*"));
}
