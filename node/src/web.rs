//! How this program reaches web servers: through which proxy, and whose certificates it accepts.
//!
//! Owns the `[proxy]` section and `ca_file` of a configuration and makes HTTP clients from them. It never sends a request
//! itself, and no request to this machine's own addresses ever goes to a proxy.

mod link_local;
mod pace;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{Certificate, ClientBuilder, NoProxy, Proxy, Url};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub(crate) use link_local::dialled;
pub(crate) use pace::Pace;

use crate::sys;

/// Never asked of a proxy: this machine, and its own LAN by link-local addresses.
const NEAR: &str = "localhost,127.0.0.0/8,::1,fe80::/10,.fe80.invalid";
/// A file of credentials is one line.
const MAX_CREDENTIALS: u64 = 4096;
/// A file of certificates: all that a system believes are about 250 KiB.
const MAX_AUTHORITIES: u64 = 1 << 20;

/// The `[proxy]` section. Without it, the environment says (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ProxyConfig {
    /// The proxy for every URL, for example `http://proxy.example.org:3128`; `"none"` for no proxy, whatever the environment says;
    /// empty for what the environment says. `https://` URLs go through it by CONNECT.
    pub(crate) url: String,
    /// Hosts, domains (`.example.org`) and networks (`10.0.0.0/8`) that are asked directly.
    pub(crate) no_proxy: Vec<String>,
    /// File whose first line is `user:password` for the proxy. Only its owner should be able to read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) credentials_file: Option<PathBuf>,
}

impl ProxyConfig {
    /// Whether nothing was configured.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what can be checked without reading a file.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        if !matches!(self.url.as_str(), "" | "none") {
            let url =
                Url::parse(&self.url).with_context(|| format!("url: {:?} is not a URL", without_user(&self.url)))?;
            if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
                bail!(
                    "url: {:?} is no proxy; write for example \"http://proxy.example.org:3128\", or \"none\"",
                    without_user(&self.url)
                );
            }
            if !url.username().is_empty() || url.password().is_some() {
                bail!(
                    "url: keep the user and the password out of it; put them in a file and name it as credentials_file"
                );
            }
        } else if self.credentials_file.is_some() {
            bail!("credentials_file is for the proxy that url names; name one");
        }
        Ok(())
    }
}

/// Makes HTTP clients.
#[derive(Debug, Clone, Default)]
pub(crate) struct Web {
    proxy: Option<Proxy>,
    /// Names the proxy of a URL, as the clients choose it.
    matcher: Option<std::sync::Arc<Matcher>>,
    authorities: Vec<Certificate>,
}

impl Web {
    /// Reads what the configuration names.
    pub(crate) fn new(config: &ProxyConfig, ca_file: Option<&Path>) -> anyhow::Result<Self> {
        config.validate().context("[proxy]")?;
        let no_proxy = config.no_proxy.iter().map(String::as_str).chain([NEAR]).collect::<Vec<_>>().join(",");
        let (proxy, matcher) = match config.url.as_str() {
            "none" => (None, None),
            "" => Self::of_environment(&no_proxy)?,
            url => {
                let mut proxy = Proxy::all(url).context("[proxy]")?.no_proxy(NoProxy::from_string(&no_proxy));
                if let Some(file) = &config.credentials_file {
                    let line = credentials(file)?;
                    let (user, password) = line
                        .split_once(':')
                        .with_context(|| format!("{}: its first line must be user:password", file.display()))?;
                    proxy = proxy.basic_auth(user, password);
                }
                (Some(proxy), Some(Matcher::builder().all(url.to_owned()).no(no_proxy).build()))
            }
        };
        let authorities = match ca_file {
            None => Vec::new(),
            Some(file) => {
                let pem = sys::read_settings(file, MAX_AUTHORITIES)
                    .with_context(|| format!("ca_file: cannot read {}", file.display()))?;
                let found = Certificate::from_pem_bundle(&pem).ok().filter(|found| !found.is_empty());
                found.with_context(|| format!("ca_file: {} holds no PEM certificate", file.display()))?
            }
        };
        Ok(Self { proxy, matcher: matcher.map(std::sync::Arc::new), authorities })
    }

    /// The environment's proxies, and none for this machine itself.
    fn of_environment(no_proxy: &str) -> anyhow::Result<(Option<Proxy>, Option<Matcher>)> {
        let variable =
            |names: [&str; 2]| names.iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
        let all = variable(["all_proxy", "ALL_PROXY"]);
        // HTTP_PROXY in capitals may come from a request's header where a web server starts programs.
        let http = std::env::var("http_proxy").ok().filter(|value| !value.is_empty()).or_else(|| all.clone());
        let https = variable(["https_proxy", "HTTPS_PROXY"]).or(all);
        let no_proxy = match variable(["no_proxy", "NO_PROXY"]) {
            Some(named) => format!("{named},{no_proxy}"),
            None => no_proxy.to_owned(),
        };
        if http.is_none() && https.is_none() {
            return Ok((None, None));
        }
        let parse = |text: &Option<String>| -> anyhow::Result<Option<Url>> {
            let Some(text) = text else { return Ok(None) };
            let full = if text.contains("://") { text.clone() } else { format!("http://{text}") };
            Url::parse(&full).map(Some).with_context(|| {
                format!("the environment names the proxy {:?}, which is not a URL", without_user(text))
            })
        };
        let (plain, secure) = (parse(&http)?, parse(&https)?);
        let proxy = Proxy::custom(move |url| if url.scheme() == "https" { secure.clone() } else { plain.clone() });
        let proxy = proxy.no_proxy(NoProxy::from_string(&no_proxy));
        let matcher =
            Matcher::builder().http(http.unwrap_or_default()).https(https.unwrap_or_default()).no(no_proxy).build();
        Ok((Some(proxy), Some(matcher)))
    }

    /// A client for `http://` only, which reads no TLS roots.
    pub(crate) fn plain(&self) -> ClientBuilder {
        // A proxy that is reached by TLS needs the roots.
        if self.proxy_speaks_tls() { self.secure() } else { self.builder().tls_certs_only([]) }
    }

    /// A client for both, which believes the system's roots and the configured ones.
    pub(crate) fn secure(&self) -> ClientBuilder {
        self.builder().tls_certs_merge(self.authorities.iter().cloned())
    }

    fn builder(&self) -> ClientBuilder {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("upswarm/", env!("CARGO_PKG_VERSION")))
            .referer(false)
            .dns_resolver(link_local::Resolver)
            // Takes reqwest's own reading of the environment away.
            .no_proxy();
        match &self.proxy {
            Some(proxy) => builder.proxy(proxy.clone()),
            None => builder,
        }
    }

    fn proxy_speaks_tls(&self) -> bool {
        let http = "http://upswarm.invalid/".parse().ok();
        let proxy = self.matcher.as_ref().zip(http).and_then(|(matcher, uri)| matcher.intercept(&uri));
        proxy.is_some_and(|proxy| proxy.uri().scheme_str() == Some("https"))
    }

    /// The proxy that a URL is fetched through, without its credentials; for people.
    pub(crate) fn proxy_of(&self, url: &str) -> Option<String> {
        let uri = url.parse().ok()?;
        let proxy = self.matcher.as_ref()?.intercept(&uri)?;
        let (scheme, authority) = (proxy.uri().scheme_str()?, proxy.uri().authority()?);
        let host = authority.as_str().rsplit('@').next()?;
        Some(format!("{scheme}://{host}"))
    }
}

/// What a failed request rests on: its own text says only that it failed.
pub(crate) fn causes(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !cause_text.is_empty() {
            text = if text.is_empty() { cause_text } else { format!("{text}: {cause_text}") };
        }
        source = cause.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}

fn credentials(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let bytes = sys::read_settings(file, MAX_CREDENTIALS)
        .with_context(|| format!("credentials_file: cannot read {}, one line user:password", file.display()))?;
    let bytes = Zeroizing::new(bytes);
    let text =
        std::str::from_utf8(&bytes).with_context(|| format!("credentials_file: {} is not UTF-8", file.display()))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().trim().to_owned()))
}

/// What may be shown of something that was meant as a URL, whether it is one or not: user and password are before the last `@`.
fn without_user(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, host)) => format!("...@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn config(url: &str, no_proxy: &[&str]) -> ProxyConfig {
        ProxyConfig {
            url: url.into(),
            no_proxy: no_proxy.iter().map(|s| (*s).into()).collect(),
            credentials_file: None,
        }
    }

    #[test]
    fn the_proxy_of_a_url_is_named_and_this_machine_has_none() {
        let web = Web::new(&config("http://proxy.test:3128", &[".intra.test", "10.0.0.0/8"]), None).unwrap();
        for (url, proxy) in [
            ("http://origin.test/payload", Some("http://proxy.test:3128")),
            ("https://origin.test/payload", Some("http://proxy.test:3128")),
            ("http://updates.intra.test/", None),
            ("http://10.1.2.3:4702/head", None),
            ("http://127.0.0.1:4702/head", None),
            ("http://localhost:4702/head", None),
        ] {
            assert_eq!(web.proxy_of(url).as_deref(), proxy, "{url}");
        }
        assert_eq!(Web::new(&config("none", &[]), None).unwrap().proxy_of("http://origin.test/"), None);
    }

    #[test]
    fn what_cannot_be_a_proxy_is_said() {
        let said = |config: &ProxyConfig| format!("{:#}", Web::new(config, None).unwrap_err());
        assert!(said(&config("proxy.test:3128", &[])).contains("is no proxy"));
        assert!(said(&config("socks5://proxy.test", &[])).contains("is no proxy"));
        assert!(said(&config("http://user:secret@proxy.test", &[])).contains("credentials_file"));
        for url in ["http://anna:Geheim/W@proxy.test", "socks5://anna:Geheim@proxy.test", "anna:Geheim@proxy.test:1"] {
            let said = said(&config(url, &[]));
            assert!(!said.contains("Geheim") && !said.contains("anna"), "{said}");
        }
        let lonely = ProxyConfig { credentials_file: Some("/nowhere".into()), ..ProxyConfig::default() };
        assert!(said(&lonely).contains("name one"));
        let missing =
            ProxyConfig { credentials_file: Some("/nowhere/at/all".into()), ..config("http://proxy.test", &[]) };
        assert!(said(&missing).contains("cannot read /nowhere/at/all"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials");
        fs::write(&file, "only-a-user\n").unwrap();
        let half = ProxyConfig { credentials_file: Some(file), ..config("http://proxy.test", &[]) };
        assert!(said(&half).contains("user:password"));
    }

    #[test]
    fn an_authority_file_must_hold_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        fs::write(&file, "not a certificate").unwrap();
        let said = format!("{:#}", Web::new(&ProxyConfig::default(), Some(&file)).unwrap_err());
        assert!(said.contains("holds no PEM certificate"), "{said}");
    }
}
