//! `skiff system pools` and `skiff version`.

use serde_json::{Value, json};
use skiff_engine::protocol::Request;

use super::{documents, print, refused, report, understand};
use crate::failure::Failure;
use crate::format::units::binary;
use crate::format::{Inspection, Listing, Row};
use crate::line::{Command, Flag, Order, Rest, Section, put};

#[derive(Debug, Default)]
pub(crate) struct Args {
    format: Option<String>,
}

const FORMAT: Flag<Args> =
    Flag::value(Some('f'), "format", "FORMAT", "json, or a template of Go's", |a, v| {
        put(&mut a.format, Some(v.to_owned()))
    });

pub(crate) static POOLS: Command<Args> = Command {
    name: "system pools",
    operands: "[OPTIONS]",
    about: "\
Shows what has been made ahead for containers to come: of each kind of container how many wait, how many are wanted by
what has come lately, how often one was there when it was needed, and the memory of those that wait.
",
    sections: &[Section { title: "Options", flags: &[FORMAT] }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

/// What `system pools` shows of a pool.
const POOL: &str =
    "{{.Pool}}\t{{.Ready}}\t{{.Wanted}}\t{{.PerSecond}}\t{{.Hits}}\t{{.Misses}}\t{{.Wasted}}\t{{.Memory}}";

pub(crate) fn pools(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&POOLS, words)? else { return Ok(0) };
    if let Some(operand) = operands.first() {
        return Err(refused(POOLS.usage(&format!("unexpected argument: {operand}"))));
    }
    let listing = Listing::parse(args.format.as_deref(), POOL).map_err(super::template)?;
    let (documents, errors) = documents(&Request::Pools)?;
    let documents: Vec<Value> = documents.iter().map(pool).collect();
    let rows: Vec<Row<'_>> =
        documents.iter().map(|document| Row { document, labels: &Value::Null }).collect();
    let names = json!({
        "Pool": "POOL", "Image": "IMAGE", "Ready": "READY", "Wanted": "WANTED", "PerSecond": "PER SECOND", "Hits": "HITS",
        "Misses": "MISSES", "Wasted": "WASTED", "Memory": "MEMORY", "MemoryBytes": "MEMORY BYTES",
    });
    print(&listing.print(&rows, &names).map_err(super::template)?)?;
    Ok(report(&errors))
}

/// What is shown of a pool that the daemon describes by `pool`.
fn pool(pool: &Value) -> Value {
    let memory = pool["memory_bytes"].as_u64();
    json!({
        "Pool": pool["key"].to_string(),
        "Image": pool["image"].as_str().unwrap_or_default(),
        "Ready": pool["ready"].as_u64().unwrap_or(0),
        "Wanted": pool["target"].as_u64().unwrap_or(0),
        "PerSecond": format!("{:.1}", pool["rate_per_s"].as_f64().unwrap_or(0.0)),
        "Hits": pool["hits"].as_u64().unwrap_or(0),
        "Misses": pool["misses"].as_u64().unwrap_or(0),
        "Wasted": pool["wasted"].as_u64().unwrap_or(0),
        "Memory": memory.map_or_else(|| "--".to_owned(), binary),
        "MemoryBytes": memory,
    })
}

pub(crate) static VERSION: Command<Args> = Command {
    name: "version",
    operands: "[OPTIONS]",
    about: "\
Shows the versions of this program and of the daemon, which is started if there is none.
",
    sections: &[Section { title: "Options", flags: &[FORMAT] }],
    order: Order::Mixed,
    aliases: &[],
    unsupported: &[],
};

/// What `version` shows.
const VERSIONS: &str = "\
Client:
 Version:    {{.Client.Version}}

Server:
 Version:    {{.Server.Version}}
 Process:    {{.Server.Pid}}
 Spawner:    {{.Server.SpawnerPid}}
 Events:     {{.Server.Events}}";

pub(crate) fn version(words: Rest<'_>) -> Result<u8, Failure> {
    let Some((args, operands)) = understand(&VERSION, words)? else { return Ok(0) };
    if let Some(operand) = operands.first() {
        return Err(refused(VERSION.usage(&format!("unexpected argument: {operand}"))));
    }
    let inspection = Inspection::parse(args.format.as_deref().or(Some(VERSIONS))).map_err(super::template)?;
    let client = json!({ "Version": env!("CARGO_PKG_VERSION") });
    let (mut documents, errors) = documents(&Request::Version)?;
    let server = documents.pop().unwrap_or_default();
    let server = json!({ "Version": server["version"], "Pid": server["pid"], "SpawnerPid": server["spawner_pid"], "Events": server["events"], "Metrics": server["metrics"] });
    let document = json!({ "Client": client, "Server": server });
    let text = match inspection {
        // One document is no list here.
        Inspection::Json => format!("{document}\n"),
        other => other.print(&[document]).map_err(super::template)?,
    };
    print(&text)?;
    Ok(report(&errors))
}
