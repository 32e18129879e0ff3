#include "cli/help.h"

#include <stdio.h>

/* String literals may be 4095 characters long; a help text is made of several. */
enum { MAX_PARTS = 5 };

static const char overview[] =
    "kvfold: DeepSeek-V4-class models with a folded KV cache\n"
    "\n"
    "Usage: kvfold COMMAND [OPTION]...\n"
    "\n"
    "Commands\n"
    "  run      answer a prompt, or hold a conversation (-i)\n"
    "  verify   run one prompt under every cache profile and compare the logits bit by bit\n"
    "  score    bits per byte and perplexity of a text\n"
    "  plan     bytes of every buffer for a model, context and profile\n"
    "  bench    time of every stage, and its share of what the machine allows\n"
    "  session  list, show, check, remove or export saved sessions\n"
    "  help     this, or the help of a command: kvfold help run\n"
    "\n"
    "  --version  print the version\n"
    "  --help     print this; kvfold COMMAND --help prints a command's options\n"
    "\n"
    "Exit status: 0 success, 1 a comparison failed (verify) or a file is damaged (session\n"
    "check), 2 bad input or usage, 130 interrupted.\n";

static const char device_part[] =
    "\n"
    "Device\n"
    "      --backend NAME     cpu (default), ref, the reference: slow, written to be read, or,\n"
    "                         on macOS, metal: Apple's GPU\n"
    "      --isa NAME         scalar, avx2, avx512, avx512vnni, neon; default: the best that\n"
    "                         this machine has; one that it lacks is refused\n"
    "      --threads N        1 to 1024; default: OMP_NUM_THREADS, else the processors that this\n"
    "                         process may use (affinity mask, CPU quota of its control group)\n";

static const char environment_part[] =
    "\n"
    "Environment (options win over it)\n"
    "  DS4_DISABLE_KV_OPTS=1      selects the profile legacy\n"
    "  DS4_METAL_FP8_KV_STORE=1   selects packed, unless DS4_DISABLE_KV_OPTS=1\n"
    "  DS4_INDEXER_SCORE_TILE=N   tokens a score tile in tiled and packed (512)\n"
    "  KVFOLD_ISA=NAME            as --isa\n"
    "  OMP_NUM_THREADS=N          as --threads; of a list the first number\n";

static const char run_part[] =
    "Usage: kvfold run -m DIR (-p TEXT | -f FILE | -i | --session NAME) [OPTION]...\n"
    "\n"
    "Answers a prompt. The answer goes to stdout as it comes, followed by a line break;\n"
    "then stderr gets one line: profile, ISA, tokens, speeds, cache bytes. Ctrl-C ends\n"
    "the answer (exit status 130; with -i the session goes on); a second one ends at once\n"
    "whatever runs, and what was not saved is lost.\n"
    "\n"
    "Prompt\n"
    "  -p, --prompt TEXT      the prompt itself\n"
    "  -f, --file FILE        read it from a file, every byte as it is; - is standard input\n"
    "  -i, --interactive      a conversation: every line is a turn, /help lists the commands;\n"
    "                         with -p or -f that text is the first turn; lines may end with\n"
    "                         LF, CR LF or CR\n"
    "\n"
    "Model and cache\n"
    "  -m, --model DIR        a checkpoint: config.json and safetensors files\n"
    "      --profile NAME     fold (default), packed, tiled or legacy\n"
    "      --ctx N            tokens the session may hold, like 64k; default: the prompt and\n"
    "                         --max-tokens rounded up to 1k, with -i at least 64k; never more\n"
    "                         than the model's maximum\n"
    "      --chunk N          prompt tokens a step, 1 to 64k (4096)\n"
    "      --grid on|off      off keeps rows as unrounded f32, for comparisons with other\n"
    "                         implementations; only the profile legacy can, so off selects it\n"
    "\n"
    "Answer\n"
    "  -n, --max-tokens N     at most N tokens an answer (256)\n"
    "      --temperature T    0 (default) takes the likeliest token; above 0 samples,\n"
    "                         like 0.7 or 7e-1, at most 100\n"
    "      --top-p P          sample from the likeliest tokens that add up to P (1: off)\n"
    "      --min-p P          drop tokens below P times the likeliest one's share (0: off)\n"
    "      --seed N           of the sampler (1); equal seeds give equal answers\n"
    "      --json             instead of the text one JSON object at the end:\n"
    "                         ctx, profile, isa, backend, resumed_tokens (held before),\n"
    "                         prompt_tokens, answer_tokens, ended, prefill_tps, decode_tps,\n"
    "                         session_bytes, tokens, text\n";

static const char run_sessions_part[] =
    "\n"
    "Sessions in files\n"
    "      --session NAME     go on with the session NAME, created where it is not there, and\n"
    "                         save it back at the end, its sampler included. The prompt is\n"
    "                         appended to the text so far, every byte as it is; without a\n"
    "                         prompt the answer goes on. Profile, context and sampler are as\n"
    "                         saved unless given. After Ctrl-C in a prompt, the same prompt\n"
    "                         goes on where it was\n"
    "      --save-every S     also save it every S seconds (30); costs what was added\n"
    "      --store DIR        without --session: keep prompts with their caches in DIR/prefixes\n"
    "                         and begin with the longest that the prompt begins with;\n"
    "                         with --session: where NAME is, instead of\n"
    "                         $XDG_DATA_HOME/kvfold/sessions (~/.local/share/kvfold/sessions)\n"
    "      --store-max BYTES  of all prefixes (20G); the least recently used leave\n"
    "      --no-lock          save also where the folder cannot lock files (some network and\n"
    "                         FUSE folders); of two programs that save to one name at once\n"
    "                         one could lose its work\n"
    "      --verify-snapshot  check all of NAME's file before it is used; otherwise each part\n"
    "                         is checked when it is first needed. Prefixes always are\n";

static const char run_end[] =
    "\n"
    "Numbers take k, M or G (powers of 1024).\n"
    "\n"
    "Examples\n"
    "  kvfold run -m models/tiny -p 'The sea'\n"
    "  kvfold run -m models/tiny -f prompt.txt -n 1k --temperature 0.8 --top-p 0.95\n"
    "  kvfold run -m models/tiny -i --ctx 128k\n"
    "  kvfold run -m models/tiny -i --session tale\n"
    "  kvfold run -m models/tiny -f prompt.txt --store cache --store-max 4G\n";

static const char session_part[] =
    "Usage: kvfold session ACTION [OPTION]...\n"
    "\n"
    "Sessions that `kvfold run --session NAME` saved, and prefixes/NAME: prompts that\n"
    "`kvfold run --store DIR` keeps.\n"
    "\n"
    "Actions\n"
    "  list                   all of them: tokens, context, profile, bytes, when they were\n"
    "                         saved, fingerprint of the model\n"
    "  show NAME...           what their files say, and how the text ends\n"
    "  check [NAME]...        compare every byte with its checksum; exit status 1 if one is\n"
    "                         damaged\n"
    "  rm NAME...             remove them\n"
    "  export NAME FILE       write a checked copy, compressed with zstd; it is put back by\n"
    "                         copying it to NAME.kvfold in the folder\n"
    "\n"
    "Options\n"
    "      --store DIR        the folder; default: $XDG_DATA_HOME/kvfold/sessions, else\n"
    "                         ~/.local/share/kvfold/sessions\n"
    "      --no-lock          rm, export: also where the folder cannot lock files\n"
    "      --json             list, show: one JSON object a line: name, path, tokens, ctx,\n"
    "                         profile, grid, bytes, unused_bytes, compressed, saves, saved\n"
    "                         (seconds since 1970), model, temperature (null: none);\n"
    "                         check: name, good, error\n"
    "      --csv              the same as comma-separated values\n"
    "  -h, --help             this\n"
    "\n"
    "A name has letters, digits, '.', '_' and '-', at most 64, no '.' or '-' first.\n"
    "\n"
    "Examples\n"
    "  kvfold session list\n"
    "  kvfold session export tale tale.kvfold\n"
    "  kvfold session check --store cache\n";

static const char verify_part[] =
    "Usage: kvfold verify -m DIR [OPTION]...\n"
    "\n"
    "Runs the same prompt under every cache profile in one process and compares all\n"
    "logits with legacy's, bit by bit: at every prompt position while tokens * vocabulary\n"
    "* 4 bytes are at most 1 GiB, else at each chunk's last, and for more tokens of the\n"
    "text, one at a time. Exit status 1 if any bit differs.\n"
    "\n"
    "Prompt\n"
    "  -f, --file FILE        the text, repeated to length; default: the bundled one\n"
    "      --ctx LIST         prompt lengths in tokens (1k,8k)\n"
    "      --decode N         tokens of the text after the prompt (64), at most 64k\n"
    "\n"
    "Model and cache\n"
    "  -m, --model DIR        a checkpoint: config.json and safetensors files\n"
    "      --profiles LIST    some of legacy,tiled,packed,fold (all); legacy always runs,\n"
    "                         because the others are compared with it (--profile is the same)\n"
    "      --chunk N          prompt tokens a step, 1 to 64k (4096)\n"
    "\n"
    "Output\n"
    "      --json             one JSON object a line: ctx, profile, isa, backend,\n"
    "                         session_bytes (held after the prompt), reduction (the share of\n"
    "                         legacy's bytes that is saved), scratch_peak_bytes,\n"
    "                         max_abs_logit_diff, compared_logits, differing_logits,\n"
    "                         inexact_rows, argmax_equal, prefill_tps, decode_tps\n"
    "      --csv              the same as comma-separated values\n";

static const char verify_end[] =
    "\n"
    "Environment (options win over it)\n"
    "  DS4_INDEXER_SCORE_TILE=N   tokens a score tile in tiled and packed (512)\n"
    "  KVFOLD_ISA=NAME            as --isa\n"
    "\n"
    "Examples\n"
    "  kvfold verify -m models/tiny --ctx 1k,8k,32k\n"
    "  kvfold verify -m models/tiny --ctx 96k --profiles fold --json\n";

static const char score_part[] =
    "Usage: kvfold score -m DIR (-f FILE | --ids FILE) [OPTION]...\n"
    "\n"
    "Bits per byte and perplexity of a text, cut into windows that know nothing of each\n"
    "other. What is left after the last whole window is dropped and counted; a text\n"
    "shorter than one window is one window.\n"
    "\n"
    "Text\n"
    "  -f, --file FILE        the text; - is standard input\n"
    "      --ids FILE         token ids instead, one a line (of any system), taken as they are\n"
    "                         (no BOS added)\n"
    "      --window N         tokens a window (4096); of a text: BOS and N - 1 bytes\n"
    "\n"
    "Model and cache\n"
    "  -m, --model DIR        a checkpoint: config.json and safetensors files\n"
    "      --profile NAME     fold (default), packed, tiled or legacy\n"
    "      --chunk N          tokens a step, 1 to 64k (4096)\n"
    "      --grid on|off      off keeps rows as unrounded f32, for comparisons with other\n"
    "                         implementations; only the profile legacy can, so off selects it\n"
    "\n"
    "Output\n"
    "      --logits FILE      the logits of every position of all windows, little-endian f32,\n"
    "                         [tokens][vocabulary]; the file appears when it is complete\n"
    "      --json             one JSON object: profile, isa, backend, window, windows, dropped,\n"
    "                         tokens (predicted), bytes, nats (mean a token), perplexity,\n"
    "                         bits_per_byte, tps\n"
    "      --csv              the same as comma-separated values\n";

static const char score_end[] =
    "\n"
    "Examples\n"
    "  kvfold score -m models/tiny -f text.txt\n"
    "  kvfold score -m models/tiny --ids ids.txt --grid off --logits logits.f32\n";

static const char plan_part[] =
    "Usage: kvfold plan -m (DIR | v4-flash) [OPTION]...\n"
    "\n"
    "What a session holds and takes, by arithmetic alone; nothing is run.\n"
    "\n"
    "Model and session\n"
    "  -m, --model DIR        a folder with config.json, or v4-flash: DeepSeek-V4-Flash\n"
    "      --ctx LIST         contexts in tokens (8k,16k,32k,64k,96k,128k,256k,512k,1M)\n"
    "      --profile LIST     some of legacy,tiled,packed,fold (all)\n"
    "      --chunk N          prompt tokens a step, 1 to 64k (4096); scratch depends on it\n"
    "      --threads N        threads whose workspace is counted (1)\n"
    "\n"
    "Questions\n"
    "      --memory BYTES     also the largest context that fits, like 96G\n"
    "      --weights BYTES    that the weights take of --memory; default: the checkpoint's\n"
    "                         mapped files and their f32 copies, none for v4-flash\n"
    "\n"
    "Output\n"
    "      --buffers          also list every buffer: class, dtype, shape, bytes\n"
    "      --svg FILE         draw session bytes against context, a line a profile\n"
    "      --json             one JSON object a line: ctx, profile, session_bytes (rows held),\n"
    "                         allocated_bytes (in pages), snapshot_bytes (saved in a file),\n"
    "                         scratch_bytes (of select and attend), total_bytes (allocated,\n"
    "                         scratch and activations), checkpoint_bytes and\n"
    "                         chunk_undo_bytes (at most, in no other number), buffers (name,\n"
    "                         dtype, shape, bytes);\n"
    "                         for --memory: profile, memory_bytes, weights_bytes, largest_ctx\n"
    "      --csv              the same without buffers, as comma-separated values\n"
    "  -h, --help             this\n"
    "\n"
    "Environment\n"
    "  DS4_INDEXER_SCORE_TILE=N   tokens a score tile in tiled and packed (512)\n"
    "\n"
    "Examples\n"
    "  kvfold plan -m v4-flash\n"
    "  kvfold plan -m v4-flash --ctx 1M --profile fold --buffers\n"
    "  kvfold plan -m v4-flash --memory 96G --weights 80G --svg plan.svg\n";

static const char bench_part[] =
    "Usage: kvfold bench [OPTION]...\n"
    "\n"
    "Measures what this machine can do (f32 multiply-adds, int8 dots, reading memory), then\n"
    "each stage on synthetic data, with its share of the tightest of these limits. Before\n"
    "it is timed, the output of each profile is compared with the others': exit status 1\n"
    "if a bit differs (openblas: more than rounding).\n"
    "\n"
    "What is measured\n"
    "      --stage LIST       some of these, or a first word such as attend (all but matmul)\n"
    "          pack, pack_index        f32 rows to bytes: a layer's rows of 512, of 128\n"
    "          select                  1, 8 and 512 queries against a layer's index rows\n"
    "          attend_csa, attend_hca  one query: the window with the selected rows, or with\n"
    "                                  all rows of an HCA layer; with _cold appended: rows\n"
    "                                  in memory, not in the caches\n"
    "          layer                   a token through a CSA layer: append, select, attend;\n"
    "                                  the mean over the tokens of one compressed row\n"
    "          step                    a token through the caches of all layers\n"
    "          matmul                  weights of each stored type, 4096 x 4096: times a vector\n"
    "                                  out of a mapped file of 8 times the caches, against a\n"
    "                                  loop that only loads it, and against the same kernel on\n"
    "                                  8 rows in the L1 cache; 2048 rows times 512 tokens, of\n"
    "                                  1024 and 4096 values, against a loop of multiply-adds\n"
    "      --type LIST        matmul: some of f32, bf16, q8_0, iq2_xxs .. (all)\n"
    "      --dir DIR          matmul: where the file goes; it has no name and is gone with the\n"
    "                         process (/tmp)\n"
    "      --profile LIST     some of legacy, tiled, packed, fold; list: f32 rows and scores,\n"
    "                         only the selected rows attended; openblas: select and attend\n"
    "                         written with sgemm, f32 rows (all)\n"
    "      --ctx LIST         contexts in tokens (8k,32k,96k,256k,1M)\n"
    "  -m, --model DIR        the geometry of a checkpoint; default: DeepSeek-V4-Flash\n"
    "      --runs N           at least N runs, 1 to 200; default: 20, fewer (3 at least) where\n"
    "                         they would take more than 20 seconds\n"
    "      --quick            a smoke test: a short context, 3 runs, nothing really cold\n"
    "\n"
    "What does not fit into the machine's memory is left out, which a line on stderr says.\n";

static const char bench_device_part[] =
    "\n"
    "Device\n"
    "      --backend NAME     cpu (default) or ref, the reference: slow, written to be read\n"
    "      --isa LIST         some of scalar, avx2, avx512, avx512vnni, neon; default: the\n"
    "                         best that this machine has; one that it lacks is refused\n"
    "      --threads N        1 to 1024; default: OMP_NUM_THREADS, else the processors that this\n"
    "                         process may use (affinity mask, CPU quota of its control group)\n"
    "\n"
    "Output\n"
    "      --svg FILE         draw time and bytes against context for each stage, a line a\n"
    "                         profile, of the last ISA\n"
    "      --json             one JSON object a line: stage, rows (compressed rows of a layer),\n"
    "                         queries, profile, isa (openblas: its kernels), backend, threads,\n"
    "                         median_us, p10_us, p90_us, bytes and ops (at least needed),\n"
    "                         limit (int8, fma or bandwidth), limit_share\n"
    "                         matmul: stage, type, isa, threads, and of what is measured the\n"
    "                         median, _p10 and _p90: bytes a second of the vector product\n"
    "                         and of loading, share of loading, values a cycle and core in\n"
    "                         L1; operations a second with 512 tokens and their share of\n"
    "                         the multiply-adds, f32 against OpenBLAS's sgemm\n"
    "      --csv              the same as comma-separated values\n";

static const char bench_end[] =
    "\n"
    "Environment (options win over it)\n"
    "  KVFOLD_ISA=LIST            as --isa\n"
    "  OMP_NUM_THREADS=N          as --threads; of a list the first number\n"
    "  OPENBLAS_CORETYPE=NAME     the kernels that OpenBLAS takes, such as SkylakeX; which\n"
    "                             ones it took is printed\n"
    "\n"
    "Examples\n"
    "  kvfold bench --ctx 96k\n"
    "  kvfold bench --stage select --ctx 96k,1M --json\n"
    "  kvfold bench --stage matmul --type q8_0,iq2_xxs --isa avx2,avx512\n"
    "  OPENBLAS_CORETYPE=SkylakeX kvfold bench --stage attend --profile openblas,fold\n";

static const char help_option[] = "  -h, --help             this\n";

void cli_help_print(cli_command command)
{
    static const char *const parts[CLI_COMMAND_COUNT][MAX_PARTS] = {
        [CLI_RUN] = {run_part, run_sessions_part, device_part, environment_part, run_end},
        [CLI_VERIFY] = {verify_part, device_part, verify_end},
        [CLI_SCORE] = {score_part, device_part, environment_part, score_end},
        [CLI_PLAN] = {plan_part},
        [CLI_BENCH] = {bench_part, bench_device_part, bench_end},
        [CLI_SESSION] = {session_part},
    };
    for (int i = 0; i < MAX_PARTS && parts[command][i]; i++) {
        fputs(parts[command][i], stdout);
        if (parts[command][i] == device_part || parts[command][i] == bench_device_part)
            fputs(help_option, stdout);
    }
}

void cli_help_print_overview(void)
{
    fputs(overview, stdout);
}
