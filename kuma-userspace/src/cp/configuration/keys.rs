//! The keys of the configuration as data: Kuma's, and ours beside them; each with its name in the environment.
//! Called by configuration.

use crate::cp::yaml::Value;

/// The sections of the file.
pub(super) const SECTIONS: [&str; 6] =
    ["dnsServer", "store", "general", "dpServer", "apiServer", "diagnostics"];
/// Names of the environment that begin like this are meant for us: an unknown one is a mistake.
pub(super) const PREFIXES: [&str; 6] = [
    "KUMA_DNS_SERVER_",
    "KUMA_STORE_",
    "KUMA_GENERAL_",
    "KUMA_DP_SERVER_",
    "KUMA_API_SERVER_",
    "KUMA_DIAGNOSTICS_",
];

/// A setting.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) section: &'static str,
    /// Below the section; with dots where it lies deeper.
    pub(super) name: &'static str,
    pub(super) env: &'static str,
    kind: Kind,
}

/// What its value is, where only text can be given.
#[derive(Debug)]
enum Kind {
    Text,
    Number,
    Bool,
}

const fn text(section: &'static str, name: &'static str, env: &'static str) -> Key {
    Key { section, name, env, kind: Kind::Text }
}

const fn number(section: &'static str, name: &'static str, env: &'static str) -> Key {
    Key { section, name, env, kind: Kind::Number }
}

const fn boolean(section: &'static str, name: &'static str, env: &'static str) -> Key {
    Key { section, name, env, kind: Kind::Bool }
}

/// What only the file can say.
const fn list(section: &'static str, name: &'static str) -> Key {
    Key { section, name, env: "", kind: Kind::Text }
}

/// All of them.
pub(super) const KEYS: &[Key] = &[
    text("dnsServer", "domain", "KUMA_DNS_SERVER_DOMAIN"),
    text("dnsServer", "CIDR", "KUMA_DNS_SERVER_CIDR"),
    text("dnsServer", "CIDR6", "KUMA_DNS_SERVER_CIDR6"),
    number("dnsServer", "ttl", "KUMA_DNS_SERVER_TTL"),
    number("dnsServer", "rest", "KUMA_DNS_SERVER_REST"),
    boolean("dnsServer", "serviceVipEnabled", "KUMA_DNS_SERVER_SERVICE_VIP_ENABLED"),
    number("dnsServer", "serviceVipPort", "KUMA_DNS_SERVER_SERVICE_VIP_PORT"),
    number("dnsServer", "port", "KUMA_DNS_SERVER_PORT"),
    text("dnsServer", "address", "KUMA_DNS_SERVER_ADDRESS"),
    text("store", "type", "KUMA_STORE_TYPE"),
    text("store", "path", "KUMA_STORE_PATH"),
    text("store", "postgres.host", "KUMA_STORE_POSTGRES_HOST"),
    number("store", "postgres.port", "KUMA_STORE_POSTGRES_PORT"),
    text("store", "postgres.user", "KUMA_STORE_POSTGRES_USER"),
    text("store", "postgres.password", "KUMA_STORE_POSTGRES_PASSWORD"),
    text("store", "postgres.dbName", "KUMA_STORE_POSTGRES_DB_NAME"),
    text("store", "postgres.tls.mode", "KUMA_STORE_POSTGRES_TLS_MODE"),
    text("store", "postgres.tls.caPath", "KUMA_STORE_POSTGRES_TLS_CA_PATH"),
    text("store", "postgres.tls.certPath", "KUMA_STORE_POSTGRES_TLS_CERT_PATH"),
    text("store", "postgres.tls.keyPath", "KUMA_STORE_POSTGRES_TLS_KEY_PATH"),
    text("general", "tlsCertFile", "KUMA_GENERAL_TLS_CERT_FILE"),
    text("general", "tlsKeyFile", "KUMA_GENERAL_TLS_KEY_FILE"),
    number("dpServer", "port", "KUMA_DP_SERVER_PORT"),
    text("dpServer", "address", "KUMA_DP_SERVER_ADDRESS"),
    text("dpServer", "tlsMode", "KUMA_DP_SERVER_TLS_MODE"),
    text("dpServer", "tlsCertFile", "KUMA_DP_SERVER_TLS_CERT_FILE"),
    text("dpServer", "tlsKeyFile", "KUMA_DP_SERVER_TLS_KEY_FILE"),
    text("dpServer", "authn.dpProxy.type", "KUMA_DP_SERVER_AUTHN_DP_PROXY_TYPE"),
    boolean(
        "dpServer",
        "authn.dpProxy.dpToken.validator.useSecrets",
        "KUMA_DP_SERVER_AUTHN_DP_PROXY_DP_TOKEN_VALIDATOR_USE_SECRETS",
    ),
    list("dpServer", "authn.dpProxy.dpToken.validator.publicKeys"),
    boolean("apiServer", "http.enabled", "KUMA_API_SERVER_HTTP_ENABLED"),
    text("apiServer", "http.interface", "KUMA_API_SERVER_HTTP_INTERFACE"),
    number("apiServer", "http.port", "KUMA_API_SERVER_HTTP_PORT"),
    boolean("apiServer", "https.enabled", "KUMA_API_SERVER_HTTPS_ENABLED"),
    text("apiServer", "https.interface", "KUMA_API_SERVER_HTTPS_INTERFACE"),
    number("apiServer", "https.port", "KUMA_API_SERVER_HTTPS_PORT"),
    text("apiServer", "https.tlsCertFile", "KUMA_API_SERVER_HTTPS_TLS_CERT_FILE"),
    text("apiServer", "https.tlsKeyFile", "KUMA_API_SERVER_HTTPS_TLS_KEY_FILE"),
    boolean("apiServer", "authn.localhostIsAdmin", "KUMA_API_SERVER_AUTHN_LOCALHOST_IS_ADMIN"),
    boolean(
        "apiServer",
        "authn.tokens.validator.useSecrets",
        "KUMA_API_SERVER_AUTHN_TOKENS_VALIDATOR_USE_SECRETS",
    ),
    list("apiServer", "authn.tokens.validator.publicKeys"),
    number("diagnostics", "serverPort", "KUMA_DIAGNOSTICS_SERVER_PORT"),
    text("diagnostics", "address", "KUMA_DIAGNOSTICS_ADDRESS"),
];

/// The keys right below a section, or below a part of one such as `store.postgres`.
pub(super) fn names(above: &str) -> Vec<&'static str> {
    let below = |key: &Key| match above.strip_prefix(key.section)?.strip_prefix('.') {
        None => key.name.split('.').next(),
        Some(part) => key.name.strip_prefix(part)?.strip_prefix('.')?.split('.').next(),
    };
    let mut names: Vec<&'static str> = KEYS.iter().filter_map(below).collect();
    names.dedup();
    names
}

impl Key {
    /// `store.type`
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The value that a text of the environment or a flag stands for. What should be a number or a truth and is none is left as it
    /// is: a duration such as `5m`, or a mistake that is reported with its text.
    pub(super) fn value(&self, text: &str) -> Value {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match self.kind {
            Kind::Number if digits => Value::Number(text.to_owned()),
            Kind::Bool if matches!(text, "true" | "false") => Value::Bool(text == "true"),
            _ => Value::Text(text.to_owned()),
        }
    }
}
