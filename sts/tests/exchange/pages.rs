//! What a mint and an exchange write: the pages of the log that SQLite syncs to disk for each, counted.

use crate::support::{Form, World};
use sqlx::Row as _;
use std::collections::BTreeMap;

/// How many pairs are written before, so that every table has grown beyond its first page.
const BEFORE: usize = 60;
/// How many pairs are counted. All of it stays below what a checkpoint would begin the log anew for.
const COUNTED: usize = 100;

/// The pages of the log, in order. It is read as <https://sqlite.org/fileformat2.html#walformat> says.
fn logged(world: &World) -> Vec<u32> {
    let path = world.database().with_file_name("caracal.db-wal");
    let log = std::fs::read(path).unwrap();
    let word = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let frame = 24 + word(&log, 8) as usize;
    let salts = log[16..24].to_vec();
    let frames = log[32..].chunks_exact(frame).take_while(|frame| frame[8..16] == salts);
    frames.map(|frame| word(frame, 0)).collect()
}

/// How often each tree stands among these pages. The first page of the file, which knows its length and its free pages, is
/// of `sqlite_schema`.
async fn trees(world: &World, pages: &[u32]) -> BTreeMap<String, usize> {
    let mut connection = world.store.read().await.unwrap();
    let rows = sqlx::query("SELECT pageno, name FROM dbstat").fetch_all(&mut *connection).await.unwrap();
    let names: BTreeMap<i64, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut trees = BTreeMap::new();
    for page in pages {
        let name = names.get(&i64::from(*page)).map_or("none", String::as_str);
        *trees.entry(name.to_owned()).or_insert(0) += 1;
    }
    trees
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mint_and_an_exchange_that_are_alone_write_few_pages() {
    let world = World::new().await;
    let (mut minted, mut exchanged) = (Vec::new(), Vec::new());
    for number in 0..BEFORE + COUNTED {
        let before = logged(&world).len();
        let token = world.exchange(&Form::mint()).await.granted();
        let between = logged(&world);
        world.present(&token).await.granted();
        let after = logged(&world);
        if number >= BEFORE {
            minted.extend_from_slice(&between[before..]);
            exchanged.extend_from_slice(&after[between.len()..]);
        }
    }
    let (mint, exchange) = (trees(&world, &minted).await, trees(&world, &exchanged).await);
    println!("{COUNTED} mints: {} pages {mint:?}", minted.len());
    println!("{COUNTED} exchanges: {} pages {exchange:?}", exchanged.len());
    // Where pages divide depends on random ids, so both have some room: 7.0 and 10.6 are usual.
    assert!(minted.len() * 10 <= 75 * COUNTED, "a mint writes more than 7.5 pages: {mint:?}");
    assert!(exchanged.len() * 10 <= 115 * COUNTED, "an exchange writes more than 11.5 pages: {exchange:?}");
}
