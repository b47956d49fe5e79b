//! Models by their names on the Hugging Face hub, through the cache that its own tools share.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::{HFClientBuilder, HFClientSync, HFError};
use serde_json::Value;

use crate::error::Error;

/// What of a repository a model is made of.
const FILES: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
];

/// The directory of a model on the hub, downloaded unless the cache holds it: `id` is `owner/name`, or `owner/name@revision`. `progress` is told
/// bytes done and bytes in all.
///
/// Cache, token and endpoint are those of the hub's own tools (`HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `hf auth login`, `HF_ENDPOINT`). With
/// `HF_HUB_OFFLINE=1`, and where the hub cannot be reached, the cache alone is asked.
///
/// # Errors
/// [`Error::Hub`] for an id that is none, a repository that is not there or not open to this token, and a cache that lacks something, naming it.
pub fn download(
    id: &str,
    progress: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Result<PathBuf, Error> {
    let offline = std::env::var("HF_HUB_OFFLINE")
        .is_ok_and(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()));
    Hub {
        client: HFClientBuilder::default(),
        offline,
    }
    .download(id, progress)
}

/// Whether a text could be the name of a model on the hub: `owner/name`, perhaps with `@revision`.
pub fn is_id(text: &str) -> bool {
    split(text).is_some()
}

/// Owner, name and revision.
fn split(id: &str) -> Option<(&str, &str, Option<&str>)> {
    let (path, revision) = id
        .split_once('@')
        .map_or((id, None), |(path, revision)| (path, Some(revision)));
    let (owner, name) = path.split_once('/')?;
    let legal = |part: &str| {
        let all = part
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        all && part.chars().any(|c| c.is_ascii_alphanumeric())
    };
    (legal(owner) && legal(name) && revision != Some("")).then_some((owner, name, revision))
}

struct Hub {
    client: HFClientBuilder,
    offline: bool,
}

impl Hub {
    fn download(
        self,
        id: &str,
        progress: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> Result<PathBuf, Error> {
        let fail = |problem: String| Error::Hub {
            id: id.into(),
            problem,
        };
        let Some((owner, name, revision)) = split(id) else {
            return Err(fail("is no model's name: expected owner/name".into()));
        };
        let client = self
            .client
            .build()
            .and_then(HFClientSync::from_inner)
            .map_err(|e| fail(e.to_string()))?;
        let repository = client.model(owner, name);
        let cached = || {
            let cached = repository
                .snapshot_download()
                .maybe_revision(revision.map(str::to_owned))
                .local_files_only(true)
                .send();
            let missing = cached
                .as_ref()
                .map_or_else(|_| vec!["all of it".into()], |path| missing(path));
            match cached {
                Ok(path) if missing.is_empty() => Ok(path),
                _ => Err(format!("the cache lacks {}", missing.join(", "))),
            }
        };
        if self.offline {
            return cached()
                .map_err(|problem| fail(format!("{problem}, and HF_HUB_OFFLINE is set")));
        }
        let fresh = repository
            .snapshot_download()
            .maybe_revision(revision.map(str::to_owned))
            .allow_patterns(FILES.map(str::to_owned).to_vec())
            .progress(Report {
                progress,
                done: Default::default(),
            })
            .send();
        let path = match fresh {
            Ok(path) => path,
            Err(HFError::Request { source, .. }) if source.is_connect() || source.is_timeout() => {
                let path = cached().map_err(|problem| {
                    fail(format!("cannot reach the hub ({source}), and {problem}"))
                })?;
                log::warn!("{id}: the hub cannot be reached; the cache has it");
                path
            }
            Err(error) => return Err(fail(error.to_string())),
        };
        match missing(&path).as_slice() {
            [] => Ok(path),
            missing => Err(fail(format!("the repository lacks {}", missing.join(", ")))),
        }
    }
}

/// What a model directory needs and this one has not.
fn missing(directory: &Path) -> Vec<String> {
    let is_there = |name: &str| directory.join(name).exists();
    let mut needed = BTreeSet::from(["config.json".to_owned()]);
    if !is_there("model.safetensors") {
        let index = std::fs::read(directory.join("model.safetensors.index.json")).ok();
        let index: Option<Value> = index.and_then(|text| serde_json::from_slice(&text).ok());
        match index
            .as_ref()
            .and_then(|index| index["weight_map"].as_object())
        {
            Some(map) => needed.extend(map.values().filter_map(Value::as_str).map(str::to_owned)),
            None => drop(needed.insert("model.safetensors".into())),
        }
    }
    needed.into_iter().filter(|name| !is_there(name)).collect()
}

/// Adds up what the hub's client says of each file.
struct Report<F> {
    progress: F,
    /// Bytes of all files, and of each.
    done: std::sync::Mutex<(u64, std::collections::BTreeMap<String, u64>)>,
}

impl<F: Fn(u64, u64) + Send + Sync> ProgressHandler for Report<F> {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else {
            return;
        };
        let mut done = self
            .done
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            DownloadEvent::Start { total_bytes, .. } => done.0 = *total_bytes,
            DownloadEvent::Progress { files } => {
                done.1.extend(
                    files
                        .iter()
                        .map(|file| (file.filename.clone(), file.bytes_completed)),
                );
                // Small files are counted before the sum is known.
                let completed = done.1.values().sum();
                (self.progress)(completed, done.0.max(completed));
            }
            DownloadEvent::AggregateProgress {
                bytes_completed,
                total_bytes,
                ..
            } => (self.progress)(*bytes_completed, *total_bytes),
            DownloadEvent::Complete => (self.progress)(done.0, done.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A file of the small model that comes with the crate; another one is an empty object.
    fn file(name: &str) -> Vec<u8> {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny");
        [tiny.join("rope"), tiny]
            .iter()
            .find_map(|folder| fs::read(folder.join(name)).ok())
            .unwrap_or_else(|| b"{}".to_vec())
    }

    /// Answers one request as the hub does.
    fn answer(mut stream: TcpStream, names: &[&str]) {
        let mut lines = BufReader::new(stream.try_clone().unwrap())
            .lines()
            .map_while(Result::ok);
        let request = lines.next().unwrap_or_default();
        lines.take_while(|line| !line.is_empty()).for_each(drop);
        let (method, path) = request.split_once(' ').unwrap_or_default();
        let path = path.split([' ', '?']).next().unwrap_or_default();
        let mut extra = String::new();
        let (status, body) = if path.starts_with("/api/models/someone/small/tree/") {
            let entry = |name: &&str| serde_json::json!({"type": "file", "path": name, "size": file(name).len(), "oid": "0".repeat(40)});
            (
                "200 OK",
                serde_json::to_vec(&names.iter().map(entry).collect::<Vec<_>>()).unwrap(),
            )
        } else if path.starts_with("/api/models/someone/small") {
            (
                "200 OK",
                serde_json::json!({"sha": COMMIT, "id": "someone/small"})
                    .to_string()
                    .into_bytes(),
            )
        } else if let Some(name) = path.strip_prefix(&format!("/someone/small/resolve/{COMMIT}/")) {
            extra = format!("ETag: \"{name}\"\r\nX-Repo-Commit: {COMMIT}\r\n");
            ("200 OK", file(name))
        } else {
            ("404 Not Found", b"{}".to_vec())
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{extra}Connection: close\r\n\r\n"
        );
        let _ = stream.write_all(head.as_bytes());
        if method != "HEAD" {
            let _ = stream.write_all(&body);
        }
    }

    /// A hub with one model of these files, and its address.
    fn serve(names: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream, names));
            }
        });
        address
    }

    fn hub(endpoint: &str, cache: &Path, offline: bool) -> Hub {
        let client = HFClientBuilder::default()
            .endpoint(endpoint)
            .cache_dir(cache)
            .retry_max_attempts(0);
        Hub { client, offline }
    }

    #[test]
    fn a_model_is_downloaded_once_and_then_found_in_the_cache() {
        let cache = tempfile::tempdir().unwrap();
        let endpoint = serve(&[
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "expected.json",
        ]);
        let seen = Arc::new(AtomicU64::new(0));
        let counted = seen.clone();
        let count = move |done, total| {
            assert!(done <= total);
            counted.fetch_max(done, Ordering::Relaxed);
        };
        let path = hub(&endpoint, cache.path(), false)
            .download("someone/small", count)
            .unwrap();
        assert!(crate::ModelDirectory::open(&path).is_ok());
        assert!(path.join("tokenizer.json").exists() && !path.join("expected.json").exists());
        assert!(seen.load(Ordering::Relaxed) >= file("model.safetensors").len() as u64);
        // Nobody listens at port 9.
        for (endpoint, offline) in [("http://127.0.0.1:9", true), ("http://127.0.0.1:9", false)] {
            assert_eq!(
                hub(endpoint, cache.path(), offline)
                    .download("someone/small", |_, _| {})
                    .unwrap(),
                path
            );
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let cache = tempfile::tempdir().unwrap();
        let fails = |endpoint: &str, offline, id| {
            hub(endpoint, cache.path(), offline)
                .download(id, |_, _| {})
                .unwrap_err()
                .to_string()
        };
        let error = fails("http://127.0.0.1:9", true, "someone/small");
        assert!(
            error.contains("someone/small")
                && error.contains("the cache lacks all of it")
                && error.contains("HF_HUB_OFFLINE"),
            "{error}"
        );
        let error = fails("http://127.0.0.1:9", false, "someone/small");
        assert!(
            error.contains("cannot reach the hub") && error.contains("the cache lacks all of it"),
            "{error}"
        );
        let error = fails(&serve(&["config.json"]), false, "someone/small");
        assert!(
            error.contains("the repository lacks model.safetensors"),
            "{error}"
        );
        let error = fails(&serve(&[]), false, "someone/else");
        assert!(error.contains("someone/else"), "{error}");
        for id in ["small", "a/b/c", "../x", "a/..", "a/b@", "/b"] {
            assert!(
                fails("http://127.0.0.1:9", true, id).contains("expected owner/name"),
                "{id}"
            );
            assert!(!is_id(id));
        }
        assert!(is_id("Qwen/Qwen2.5-0.5B-Instruct@main"));
    }
}
