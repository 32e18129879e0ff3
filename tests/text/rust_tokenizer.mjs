// The tokenizers library (Rust), from stdin to stdout.
//
// usage: node rust_tokenizer.mjs NODE_MODULES TOKENIZER_JSON [time FILE]
//
// Requests are texts, each its bytes as u32 (little-endian) and those. An answer is the number of
// ids as u32 and those. With `time`: encodes FILE's paragraphs (what two line breaks end), and prints
// open_s, paragraphs, ids and the least seconds of three rounds as "name value" lines.
import { createRequire } from "node:module";
import { readFileSync, writeSync } from "node:fs";
import { resolve } from "node:path";

const [modules, file, ...rest] = process.argv.slice(2);
const { Tokenizer } = createRequire(resolve(modules, "x.js"))("@anush008/tokenizers");
const started = process.hrtime.bigint();
const tokenizer = Tokenizer.fromFile(file);
const seconds = (from) => Number(process.hrtime.bigint() - from) / 1e9;

const encode = async (texts) => await tokenizer.encodeBatch(texts, null, { addSpecialTokens: false });

async function time(name) {
    console.log("open_s", seconds(started));
    const texts = readFileSync(name, "utf8").match(/[^]*?\n\n|[^]+$/g);
    let least = Infinity;
    let encodings;
    for (let round = 0; round < 3; round++) {
        const from = process.hrtime.bigint();
        encodings = await encode(texts);
        least = Math.min(least, seconds(from));
    }
    console.log("least_s", least);
    console.log("paragraphs", texts.length);
    console.log("ids", encodings.reduce((sum, encoding) => sum + encoding.getLength(), 0));
}

function write(bytes) {
    for (let done = 0; done < bytes.length;) {
        try {
            done += writeSync(1, bytes, done);
        } catch (error) {
            if (error.code !== "EAGAIN") throw error;
        }
    }
}

async function answer() {
    const all = readFileSync(0);
    const texts = [];
    for (let at = 0; at < all.length;) {
        const bytes = all.readUInt32LE(at);
        texts.push(all.toString("utf8", at + 4, at + 4 + bytes));
        at += 4 + bytes;
    }
    const batch = 5000; // encodings are large
    for (let at = 0; at < texts.length; at += batch)
        for (const encoding of await encode(texts.slice(at, at + batch))) {
            const ids = encoding.getIds();
            const out = Buffer.alloc(4 + 4 * ids.length);
            out.writeUInt32LE(ids.length, 0);
            ids.forEach((id, i) => out.writeUInt32LE(id, 4 + 4 * i));
            write(out);
        }
}

if (rest[0] === "time") await time(rest[1]);
else await answer();
