//! Files and documents about registries: credentials, rules, tokens, lists. A kind, a zero byte, and the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_fuzz::one_line;
use skiff_registry::{
    Access, Config, CredentialFile, Patience, Registry, Rules, parse_credentials, parse_list, parse_token,
};
use skiff_store::ImageName;

fuzz_target!(|input: &str| {
    let (kind, text) = input.split_once('\0').unwrap_or(("", input));
    match kind {
        "credentials" => {
            for (host, path) in [("a.b", "x/y"), ("docker.io", "library/x"), ("", "")] {
                if let Err(error) = parse_credentials(text, host, path) {
                    one_line(&error.message);
                }
            }
        }
        "rules" => {
            let mut rules = Rules::default();
            if let Err(error) = rules.add(text) {
                return one_line(&error);
            }
            let config = Config {
                credentials: CredentialFile::at("/nonexistent"),
                rules,
                tls_verify: None,
                certificates: Vec::new(),
                patience: Patience::default(),
            };
            let registry = Registry::new(config);
            for name in ["a.b/x/y", "x", "c.a.b:5/x"] {
                let name = ImageName::parse(name).expect("a name");
                if let Err(error) = registry.repository(&name, Access::Pull) {
                    one_line(&error.message);
                }
                let _repository = registry.repository(&name, Access::Push);
            }
        }
        "token" => drop(parse_token(text.as_bytes())),
        _ => drop(parse_list(text.as_bytes())),
    }
});
