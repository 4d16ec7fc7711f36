//! Fleet provisioning by claim, as AWS IoT Core does it over MQTT: it signs requests for certificates, and makes things
//! of a template. moto has neither its topics nor provisioning templates.

use std::{collections::BTreeMap, sync::Mutex};

use openssl::{hash::MessageDigest, x509::X509Req};
use serde_json::{Value, json};

use super::certs::certs;

pub(crate) const CREATE: &str = "$aws/certificates/create-from-csr/json";

/// Whether the hook of the template lets a device with these parameters in.
type Hook = Box<dyn Fn(&Value) -> bool + Send + Sync>;

/// What is sent in place of the text of an answer.
type Alteration = Box<dyn Fn(String) -> String + Send>;

/// A provisioning template, and what has been made with it.
pub(crate) struct Fleet {
    template: &'static str,
    /// The parameters that it declares, all without a default. The first one names the thing.
    parameters: &'static [&'static str],
    hook: Hook,
    /// What an answer has beside the thing's name.
    device_configuration: Value,
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    /// The thing of each certificate, by the certificate's identifier; none while it is pending activation.
    certificates: BTreeMap<String, Option<String>>,
    /// The certificate of each ownership token.
    tokens: BTreeMap<String, String>,
    are_tokens_expired: bool,
    is_certificate_wrong: bool,
    requests: Vec<(String, Value)>,
    /// By the topic of the request.
    alterations: BTreeMap<String, Alteration>,
}

/// What a certificate is to the broker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// It is not one of these: a claim certificate.
    Claim,
    Pending,
    Thing(String),
}

/// To a topic, on the connection that asked.
pub(crate) struct Answer {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
}

impl Fleet {
    pub(crate) fn new(template: &'static str, parameters: &'static [&'static str]) -> Self {
        Self {
            template,
            parameters,
            hook: Box::new(|_| true),
            device_configuration: json!({}),
            registry: Mutex::default(),
        }
    }

    pub(crate) fn hook(mut self, hook: impl Fn(&Value) -> bool + Send + Sync + 'static) -> Self {
        self.hook = Box::new(hook);
        self
    }

    pub(crate) fn device_configuration(mut self, configuration: Value) -> Self {
        self.device_configuration = configuration;
        self
    }

    /// As if an hour had passed since each token was made.
    pub(crate) fn expire_tokens(&self, are_expired: bool) {
        self.registry.lock().unwrap().are_tokens_expired = are_expired;
    }

    /// From now on certificates are for another key.
    pub(crate) fn sign_another_key(&self) {
        self.registry.lock().unwrap().is_certificate_wrong = true;
    }

    /// From now on another text is sent in place of each answer to requests on this topic.
    pub(crate) fn alter_answers(
        &self,
        topic: &str,
        alteration: impl Fn(String) -> String + Send + 'static,
    ) {
        let mut registry = self.registry.lock().unwrap();
        let alterations = &mut registry.alterations;
        alterations.insert(topic.to_owned(), Box::new(alteration));
    }

    /// The identifiers of the active certificates of a thing.
    pub(crate) fn certificates_of(&self, thing: &str) -> Vec<String> {
        let registry = self.registry.lock().unwrap();
        let of_thing = registry
            .certificates
            .iter()
            .filter(|(_, owner)| owner.as_deref() == Some(thing));
        of_thing.map(|(id, _)| id.clone()).collect()
    }

    /// What came to the topics of provisioning.
    pub(crate) fn requests(&self) -> Vec<(String, Value)> {
        self.registry.lock().unwrap().requests.clone()
    }

    pub(crate) fn holder(&self, certificate: &str) -> Holder {
        match self.registry.lock().unwrap().certificates.get(certificate) {
            None => Holder::Claim,
            Some(None) => Holder::Pending,
            Some(Some(thing)) => Holder::Thing(thing.clone()),
        }
    }

    pub(crate) fn provision_topic(&self) -> String {
        format!(
            "$aws/provisioning-templates/{}/provision/json",
            self.template
        )
    }

    /// What the policy of the claim certificate allows to publish.
    pub(crate) fn is_request(&self, topic: &str) -> bool {
        topic == CREATE || topic == self.provision_topic()
    }

    /// What it allows to subscribe to.
    pub(crate) fn is_answer(&self, filter: &str) -> bool {
        let topic = filter
            .strip_suffix("/accepted")
            .or_else(|| filter.strip_suffix("/rejected"));
        topic.is_some_and(|topic| self.is_request(topic))
    }

    pub(crate) fn answer(&self, topic: &str, payload: &[u8]) -> Answer {
        let request: Value = serde_json::from_slice(payload).unwrap_or(Value::Null);
        let mut registry = self.registry.lock().unwrap();
        registry.requests.push((topic.to_owned(), request.clone()));
        let answer = if topic == CREATE {
            create(&mut registry, &request)
        } else {
            self.provision(&mut registry, &request)
        };
        let (how, answer) = match answer {
            Ok(accepted) => ("accepted", accepted),
            Err(rejected) => ("rejected", rejected),
        };
        // AWS escapes some characters that need not be.
        let text = serde_json::to_string_pretty(&answer).unwrap();
        let mut text = text.replace('/', "\\/").replace('=', "\\u003d");
        if let Some(alteration) = registry.alterations.get(topic) {
            text = alteration(text);
        }
        Answer {
            topic: format!("{topic}/{how}"),
            payload: text.into(),
        }
    }

    fn provision(&self, registry: &mut Registry, request: &Value) -> Result<Value, Value> {
        let token = request["certificateOwnershipToken"].as_str();
        let id = token.and_then(|token| registry.tokens.get(token)).cloned();
        let id = id.filter(|_| !registry.are_tokens_expired).ok_or_else(|| {
            rejection(
                400,
                "InvalidCertificateOwnershipToken",
                "the token is not known, or has expired",
            )
        })?;
        let given = &request["parameters"];
        let missing = self
            .parameters
            .iter()
            .find(|name| !given[**name].is_string());
        if let Some(missing) = missing {
            let message = format!("Parameter {missing} is required and not supplied");
            return Err(rejection(400, "InvalidParameters", &message));
        }
        if !(self.hook)(given) {
            return Err(rejection(
                403,
                "AccessDenied",
                "The pre-provisioning hook\ndenied it",
            ));
        }
        let thing = given[self.parameters[0]].as_str().unwrap().to_owned();
        registry.tokens.retain(|_, of| *of != id);
        registry.certificates.insert(id, Some(thing.clone()));
        Ok(json!({"deviceConfiguration": self.device_configuration, "thingName": thing}))
    }
}

fn create(registry: &mut Registry, request: &Value) -> Result<Value, Value> {
    let invalid = || rejection(400, "InvalidCSR", "The CSR is not valid");
    let text = request["certificateSigningRequest"]
        .as_str()
        .ok_or_else(invalid)?;
    let request = X509Req::from_pem(text.as_bytes()).map_err(|_| invalid())?;
    let key = request.public_key().unwrap();
    if !request.verify(&key).unwrap_or(false) {
        return Err(invalid());
    }
    let authority = &certs().authority;
    let certificate = if registry.is_certificate_wrong {
        authority.client_certificate("AWS IoT Certificate", &super::certs::new_key())
    } else {
        authority.client_certificate("AWS IoT Certificate", &key)
    };
    let digest = certificate.digest(MessageDigest::sha256()).unwrap();
    let id = data_encoding::HEXLOWER.encode(&digest);
    let token = format!("token/{}==", registry.certificates.len());
    registry.certificates.insert(id.clone(), None);
    registry.tokens.insert(token.clone(), id.clone());
    let pem = String::from_utf8(certificate.to_pem().unwrap()).unwrap();
    Ok(json!({"certificateId": id, "certificatePem": pem, "certificateOwnershipToken": token}))
}

fn rejection(status: u16, code: &str, message: &str) -> Value {
    json!({"statusCode": status, "errorCode": code, "errorMessage": message})
}
