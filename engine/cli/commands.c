#include "engine/cli/commands.h"

#include <string.h>

#include "engine/base/text.h"

enum { COMMANDS_MAX = 64 };

static const struct lq_option check_options[] = {
    {0, "rebuild", "TARGET", NULL, false,
     "build TARGET again from nothing and compare every result byte by byte"},
};

static const struct lq_option fmt_options[] = {
    {0, "check", NULL, NULL, false, "change nothing; fail when the layout is not canonical"},
    {'w', "write", NULL, NULL, false, "rewrite the file in place"},
};

static const struct lq_option graph_options[] = {
    {0, "format", "FORMAT", "dot mermaid json html", false, "language of the output (dot)"},
};

static const struct lq_option log_options[] = {
    {0, "last", "N", NULL, false, "how many (20)"},
};

static const struct lq_option query_options[] = {
    {0, "direct", NULL, NULL, false, "only what stands one step away"},
};

static const struct lq_command query_commands[] = {
    {.name = "needs",
     .operands = "TARGET",
     .help = "list what a target is made from, directly or through others",
     .options = query_options,
     .option_count = LQ_COUNT_OF(query_options),
     .operand_min = 1,
     .operand_max = 1,
     .run = lq_command_query},
    {.name = "dependants",
     .operands = "TARGET",
     .help = "list what is made from a target, directly or through others",
     .options = query_options,
     .option_count = LQ_COUNT_OF(query_options),
     .operand_min = 1,
     .operand_max = 1,
     .run = lq_command_query},
};

static const struct lq_option inspect_options[] = {
    {0, "picture", NULL, NULL, false, "draw the importance and super weights of every layer"},
    {0, "svg", "FILE", NULL, false, "draw them into FILE, in which more can be seen"},
    {0, "format", "FORMAT", "human json", false, "language of the output (human)"},
};

static const struct lq_option verify_options[] = {
    {0, "statement", "FILE", NULL, false, "the statement (FILE.intoto.json)"},
    {0, "format", "FORMAT", "human json", false, "language of the output (human)"},
};

static const struct lq_option quantize_options[] = {
    {'q', "level", "LEVEL", NULL, false, "level or type, Q4_K_M for example; or 'dynamic'"},
    {'o', "output", "FILE", NULL, false, "the file to write (MODEL-LEVEL.gguf)"},
    {0, "imatrix", "FILE", NULL, false, "importance matrix: GGUF, IMAT or .dat"},
    {0, "calibration-data", "FILE", NULL, false,
     "text to compute the importance matrix from, instead of --imatrix"},
    {0, "calibration-samples", "N", NULL, false, "samples of it (512)"},
    {0, "sequence", "N", NULL, false, "tokens in a sample (the model's context, at most 512)"},
    {0, "dynamic", NULL, NULL, false, "choose a type for each layer"},
    {0, "profile", "NAME", NULL, false,
     "attention-high, balanced, compression-max or a .dqprofile file"},
    {0, "target-bpw", "X", NULL, false, "bits per weight that the profile aims at"},
    {0, "protect-super-weights", NULL, NULL, false,
     "let the most important weights lead their blocks"},
    {0, "protection-coverage", "X", NULL, false, "part of the weights to protect (0.0001)"},
    {0, "tensor-type", "GLOB=TYPE", NULL, false,
     "type of the tensors that match; may be given again, the first match wins"},
    {0, "pure", NULL, NULL, false, "one type for every tensor, no mixture"},
    {0, "output-tensor-type", "TYPE", NULL, false, "type of output.weight"},
    {0, "token-embedding-type", "TYPE", NULL, false, "type of token_embd.weight"},
    {0, "allow-requantize", NULL, NULL, false, "accept a model that is quantized already"},
    {0, "quality-report", NULL, NULL, false, "compare the result with the original"},
    {0, "evaluation-data", "FILE", NULL, false,
     "text for that (the calibration data, else LQBUILD_CALIBRATION_DATA)"},
    {0, "fail-above", "X", NULL, false,
     "such a report, and fail when perplexity grows by more than this part"},
    {0, "coherence-check", NULL, NULL, false,
     "such a report that also fails when what it writes makes no sense to the original"},
    {0, "smoothquant", NULL, NULL, false, "for the format smoothquant, which implies it"},
    {0, "alpha", "X", NULL, false, "how much SmoothQuant moves into the weights, 0 to 1 (0.5)"},
    {0, "bits", "N", "2 3 4 8", false, "bits of a weight for the format gptq (4)"},
    {0, "group-size", "N", "32 64 128 256 -1", false,
     "weights that share a scale, -1 for a whole row (128)"},
    {0, "asymmetric", NULL, NULL, false, "give each group of weights a zero point"},
    {0, "desc-act", NULL, NULL, false, "take columns in the order of their activations"},
    {0, "damp", "X", NULL, false, "part of the mean activation that is added to each (0.05)"},
    {0, "symmetric", NULL, NULL, false, "give groups of weights no zero point, for the format awq"},
    {0, "no-clip", NULL, NULL, false, "keep the whole range of each group, for the format awq"},
    {0, "packing", "FILES", "awq compressed-tensors", false,
     "how the format awq stores weights (awq)"},
    {0, "format", "FORMAT", "human json", false, "language of the result (human)"},
};

static const struct lq_option analyze_options[] = {
    {'o', "output", "FILE", NULL, false,
     "the file to write: .imatrix, .gguf or .dat (MODEL.imatrix)"},
    {0, "calibration-data", "FILE", NULL, false,
     "text to run through the model (LQBUILD_CALIBRATION_DATA)"},
    {0, "calibration-samples", "N", NULL, false, "samples of it (512)"},
    {0, "sequence", "N", NULL, false, "tokens in a sample (the model's context, at most 512)"},
    {0, "method", "METHOD", "activation gradient fisher", false,
     "how to measure importance (activation)"},
    {0, "skip-first", NULL, NULL, false, "leave out the first token of every sample"},
    {0, "identify-super-weights", NULL, NULL, false, "also write a mask, FILE.mask"},
    {0, "find", "KIND", "ranking spikes both", false,
     "which weights: the top ones, those behind activation spikes, or both (ranking)"},
    {0, "coverage", "X", NULL, false, "part of the weights that are the top ones (0.0001)"},
    {0, "threshold", "X", NULL, false, "an activation above it is a spike (50)"},
    {0, "precision", "N", NULL, false, "bits of tensors that the mask promotes: 8 or 16 (16)"},
    {0, "checkpoint-dir", "DIR", NULL, false, "keep what is done in DIR, as --cache-dir does"},
    {0, "resume", "DIR", NULL, false, "go on with what an interrupted run left in DIR"},
    {0, "format", "FORMAT", "human json", false, "language of the result (human)"},
};

static const struct lq_option format_options[] = {
    {0, "format", "FORMAT", "human json", false, "language of the output (human)"},
};

static const struct lq_option profile_create_options[] = {
    {0, "imatrix", "FILE", NULL, false, "importance matrix (required)"},
    {0, "name", "NAME", NULL, false, "name of the profile (required)"},
    {0, "model", "MODEL", NULL, false, "the model it is for (required)"},
    {0, "strategy", "NAME", "attention-high balanced compression-max", false,
     "what to start from (balanced)"},
    {0, "target-bpw", "X", NULL, false, "bits per weight to aim at"},
    {0, "target-size", "X", NULL, false, "size to aim at, as a part of the original"},
    {'o', "output", "FILE", NULL, false, "the file to write (NAME.dqprofile)"},
    {0, "format", "FORMAT", "human json", false, "language of the output (human)"},
};

static const struct lq_option quality_report_options[] = {
    {0, "calibration-data", "FILE", NULL, false,
     "text for the perplexity (LQBUILD_CALIBRATION_DATA)"},
    {0, "calibration-samples", "N", NULL, false,
     "chunks of it to measure at most, 0 for all (256)"},
    {0, "include-layers", NULL, NULL, false, "show the errors of every tensor"},
    {0, "coherence-check", NULL, NULL, false,
     "fail when what it writes makes no sense to the original"},
    {0, "prompts", "FILE", NULL, false, "text, JSON or JSON lines with the prompts of that check"},
    {0, "fail-above", "X", NULL, false,
     "fail when perplexity grows by more than this part, 20% perhaps"},
    {'o', "output", "FILE", NULL, false, "write the report here: .qreport, .json, .txt or .html"},
    {0, "format", "FORMAT", "human json", false, "language of the output (human)"},
};

static const struct lq_option quality_compare_options[] = {
    {0, "metrics", "LIST", NULL, false,
     "what to compare: some of perplexity,divergence,size,bpw (all)"},
    {0, "calibration-data", "FILE", NULL, false,
     "text for perplexity and divergence (LQBUILD_CALIBRATION_DATA)"},
    {0, "calibration-samples", "N", NULL, false,
     "chunks of it to measure at most, 0 for all (256)"},
    {0, "fail-above", "X", NULL, false,
     "fail when a perplexity grows by more than this part, 20% perhaps"},
    {0, "format", "FORMAT", "human json csv", false, "language of the output (human)"},
};

static const struct lq_option tokenize_options[] = {
    {0, "ids", NULL, NULL, false, "print ids on one line instead of pieces"},
    {0, "no-special", NULL, NULL, false,
     "add no BOS or EOS, and take control tokens in the text as text"},
    {0, "format", "FORMAT", "human json", false, "language of the output (human)"},
};

static const struct lq_option imatrix_merge_options[] = {
    {'o', "output", "FILE", NULL, false, "the file to write: .imatrix, .gguf or .dat (required)"},
    {0, "allow-missing", NULL, NULL, false, "accept entries that some of the files lack"},
    {0, "format", "FORMAT", "human json", false, "language of the output (human)"},
};

static const struct lq_option imatrix_compare_options[] = {
    {0, "max-relative", "X", NULL, false, "fail when a column differs by more than this part"},
    {0, "ignore-below", "X", NULL, false, "differences that count as none (1e-6)"},
    {0, "format", "FORMAT", "human json", false, "language of the output (human)"},
};

static const struct lq_command imatrix_commands[] = {
    {.name = "convert",
     .operands = "FROM TO",
     .help = "write an importance matrix in another format",
     .details = "Formats follow the extension of TO: .gguf, .dat (legacy), anything else IMAT.",
     .options = format_options,
     .option_count = LQ_COUNT_OF(format_options),
     .operand_min = 2,
     .operand_max = 2,
     .run = lq_command_imatrix_convert},
    {.name = "merge",
     .operands = "FILE...",
     .help = "add up the sums and counts of several importance matrices",
     .options = imatrix_merge_options,
     .option_count = LQ_COUNT_OF(imatrix_merge_options),
     .operand_min = 1,
     .operand_max = LQ_OPERANDS_ANY,
     .run = lq_command_imatrix_merge},
    {.name = "stats",
     .operands = "FILE",
     .help = "print statistics of every tensor of an importance matrix",
     .options = format_options,
     .option_count = LQ_COUNT_OF(format_options),
     .operand_min = 1,
     .operand_max = 1,
     .run = lq_command_imatrix_stats},
    {.name = "compare",
     .operands = "A B",
     .help = "print the largest difference of every tensor",
     .details = "With --max-relative it fails with exit code 1 when a column of any tensor differs "
                "by\nmore, or when a tensor is in one file only.",
     .options = imatrix_compare_options,
     .option_count = LQ_COUNT_OF(imatrix_compare_options),
     .operand_min = 2,
     .operand_max = 2,
     .run = lq_command_imatrix_compare},
};

static const struct lq_option help_options[] = {
    {0, "man", NULL, NULL, false, "print the manual page, for man -l -"},
};

static const struct lq_command key_commands[] = {
    {.name = "generate",
     .operands = "NAME",
     .help = "make a key that signs what this machine shares, and trust it here",
     .operand_min = 1,
     .operand_max = 1,
     .run = lq_command_key_generate},
    {.name = "trust",
     .operands = "NAME:BASE64",
     .help = "take results that somebody else has signed with this key",
     .operand_min = 1,
     .operand_max = 1,
     .run = lq_command_key_trust},
    {.name = "list", .help = "list the keys that are trusted", .run = lq_command_key_list},
};

static const struct lq_command profile_commands[] = {
    {.name = "list",
     .help = "list the presets and the profiles in the user's folder",
     .options = format_options,
     .option_count = LQ_COUNT_OF(format_options),
     .run = lq_command_profile_list},
    {.name = "show",
     .operands = "NAME|FILE",
     .help = "show what a profile does",
     .options = format_options,
     .option_count = LQ_COUNT_OF(format_options),
     .operand_min = 1,
     .operand_max = 1,
     .run = lq_command_profile_show},
    {.name = "create",
     .operands = "",
     .help = "make a profile for a model from an importance matrix",
     .options = profile_create_options,
     .option_count = LQ_COUNT_OF(profile_create_options),
     .run = lq_command_profile_create,
     .builds = true},
    {.name = "validate",
     .operands = "PROFILE MODEL",
     .help = "check that a profile fits a model",
     .options = format_options,
     .option_count = LQ_COUNT_OF(format_options),
     .operand_min = 2,
     .operand_max = 2,
     .run = lq_command_profile_validate,
     .builds = true},
};

static const struct lq_command quality_commands[] = {
    {.name = "report",
     .operands = "ORIGINAL QUANTIZED",
     .help = "measure what quantization cost",
     .options = quality_report_options,
     .option_count = LQ_COUNT_OF(quality_report_options),
     .operand_min = 2,
     .operand_max = 2,
     .run = lq_command_quality_report,
     .builds = true},
    {.name = "compare",
     .operands = "ORIGINAL QUANTIZED...",
     .help = "put several quantized models side by side",
     .details = "Perplexity and divergence need a text; one pass over it measures all models. Size "
                "and\nbits per weight alone (--metrics size,bpw) are read from the files.",
     .options = quality_compare_options,
     .option_count = LQ_COUNT_OF(quality_compare_options),
     .operand_min = 2,
     .operand_max = LQ_OPERANDS_ANY,
     .run = lq_command_quality_compare,
     .builds = true},
};

const struct lq_command lq_commands[] = {
    {.name = "build",
     .operands = "[TARGET...]",
     .help = "build targets of the recipe; the default command",
     .details = "A target is the name of an artifact or the path of its output. Without targets\n"
                "the recipe's `default` is built, or everything when it has none.",
     .operand_max = LQ_OPERANDS_ANY,
     .run = lq_command_build,
     .builds = true},
    {.name = "init",
     .operands = "MODEL",
     .help = "write a commented recipe for a model",
     .details =
         "MODEL is a Hugging Face folder or a GGUF file. The recipe goes to recipe.lq, or to\n"
         "what -f names; an existing one is kept unless --force is given. -n prints it.",
     .operand_min = 1,
     .operand_max = 1,
     .run = lq_command_init},
    {.name = "check",
     .operands = "[RECIPE]",
     .help = "read a recipe and report its errors",
     .details =
         "With --rebuild, every step of the target runs again with an empty cache of its own.\n"
         "A step whose result is another one, with equal inputs, is not reproducible: exit\n"
         "code 1. Files that the recipe names are left as they are.",
     .options = check_options,
     .option_count = LQ_COUNT_OF(check_options),
     .operand_max = 1,
     .run = lq_command_check},
    {.name = "fmt",
     .operands = "[FILE]",
     .help = "print a recipe in its canonical layout",
     .options = fmt_options,
     .option_count = LQ_COUNT_OF(fmt_options),
     .operand_max = 1,
     .run = lq_command_fmt},
    {.name = "rules",
     .operands = "[KIND]",
     .help = "list the kinds of artifacts, or the attributes of one",
     .operand_max = 1,
     .run = lq_command_rules},
    {.name = "graph",
     .operands = "[TARGET...]",
     .help = "print the artifacts and what they need",
     .options = graph_options,
     .option_count = LQ_COUNT_OF(graph_options),
     .operand_max = LQ_OPERANDS_ANY,
     .run = lq_command_graph},
    {.name = "explain",
     .operands = "TARGET",
     .help = "say what has changed since a target was last built, and what would run",
     .details = "Nothing is built. --json prints one object for each artifact and step.",
     .operand_min = 1,
     .operand_max = 1,
     .run = lq_command_explain},
    {.name = "why-miss",
     .operands = "TARGET",
     .help = "name every step of a target that misses the cache, with its keys",
     .details =
         "A key is the SHA-256 of all that a step is made from. The fields that differ from\n"
         "the last build of the step stand below the keys.",
     .operand_min = 1,
     .operand_max = 1,
     .run = lq_command_explain},
    {.name = "log",
     .help = "list the last builds: what ran, what was cached, how long it took",
     .details = "-v names the slowest steps of each, --json prints the entries as they are kept.",
     .options = log_options,
     .option_count = LQ_COUNT_OF(log_options),
     .run = lq_command_log},
    {.name = "query",
     .operands = "COMMAND",
     .help = "ask what a target needs, and what needs it",
     .children = query_commands,
     .child_count = LQ_COUNT_OF(query_commands)},
    {.name = "inspect",
     .operands = "FILE...",
     .help = "show what a model, imatrix, mask, profile or report file holds",
     .details =
         "Of a Hugging Face folder, or org/name in the hub's cache, it shows what config.json\n"
         "says and how many parameters of which type there are.\n"
         "A picture is made from an importance matrix, a mask, or both: lqbuild inspect\n"
         "--picture X.imatrix X.mask. It has a row for each layer, a column for each kind of\n"
         "tensor, and shades by the logarithm of importance. It is drawn with blocks where\n"
         "the locale is a UTF-8 one, else in ASCII.",
     .options = inspect_options,
     .option_count = LQ_COUNT_OF(inspect_options),
     .operand_min = 1,
     .operand_max = LQ_OPERANDS_ANY,
     .run = lq_command_inspect},
    {.name = "verify",
     .operands = "FILE",
     .help = "check a GGUF file against its provenance statement",
     .details =
         "The statement stands beside the file, FILE.intoto.json. The digest of the file and\n"
         "the keys inside it must agree with it.",
     .options = verify_options,
     .option_count = LQ_COUNT_OF(verify_options),
     .operand_min = 1,
     .operand_max = 1,
     .run = lq_command_verify},
    {.name = "clean",
     .operands = "[TARGET...]",
     .help = "remove the output files that the recipe names; never the cache",
     .operand_max = LQ_OPERANDS_ANY,
     .run = lq_command_clean},
    {.name = "cache",
     .operands = "COMMAND",
     .help = "look after the cache",
     .children = lq_cache_commands,
     .child_count = LQ_CACHE_COMMAND_COUNT},
    {.name = "push",
     .operands = "[TARGET...]",
     .help = "send what is built to the remotes",
     .operand_max = LQ_OPERANDS_ANY,
     .run = lq_command_push},
    {.name = "pull",
     .operands = "[TARGET...]",
     .help = "get targets from the cache or the remotes; compute nothing",
     .operand_max = LQ_OPERANDS_ANY,
     .run = lq_command_pull,
     .builds = true},
    {.name = "fetch",
     .operands = "[NAME...]",
     .help = "download models and texts of the Hugging Face hub, for recipes that name them",
     .details =
         "NAME is org/name, org/name@revision, org/name/file.gguf or datasets/org/name/file, with\n"
         "or without hf: in front. Without names it is what models and texts of the recipe name\n"
         "and the hub's cache lacks. Of a model the files that lqbuild reads are loaded. What was\n"
         "broken off goes on where it stopped. --force reads what is there and loads again what\n"
         "is damaged; -n says what would be loaded.",
     .options = format_options,
     .option_count = LQ_COUNT_OF(format_options),
     .operand_max = LQ_OPERANDS_ANY,
     .run = lq_command_fetch},
    {.name = "key",
     .operands = "COMMAND",
     .help = "keys that sign what is shared",
     .children = key_commands,
     .child_count = LQ_COUNT_OF(key_commands)},
    {.name = "quantize",
     .operands = "MODEL FORMAT",
     .help = "quantize a model without writing a recipe",
     .details =
         "MODEL is a Hugging Face folder or a GGUF file. The work is cached as in any build.\n"
         "FORMAT is gguf, or one that writes a folder and takes a Hugging Face folder and\n"
         "--calibration-data: smoothquant (MODEL-W8A8, weights and activations of 8 bits),\n"
         "gptq (MODEL-GPTQ-4bit-g128, weights of 2 to 8 bits in groups) or awq\n"
         "(MODEL-AWQ-4bit-g128, weights of 4 bits in groups).",
     .options = quantize_options,
     .option_count = LQ_COUNT_OF(quantize_options),
     .operand_min = 2,
     .operand_max = 2,
     .run = lq_command_quantize,
     .builds = true},
    {.name = "analyze",
     .operands = "MODEL",
     .help = "compute an importance matrix without writing a recipe",
     .details = "Finished layers stay in the cache: a run that was stopped goes on at the next one "
                "when it\nis started again, also without --resume. `lqbuild inspect --picture "
                "X.imatrix X.mask`\ndraws the result.",
     .options = analyze_options,
     .option_count = LQ_COUNT_OF(analyze_options),
     .operand_min = 1,
     .operand_max = 1,
     .run = lq_command_analyze,
     .builds = true},
    {.name = "tokenize",
     .operands = "MODEL-OR-VOCAB",
     .help = "print the tokens of the text on stdin",
     .details =
         "MODEL-OR-VOCAB is a Hugging Face folder, a tokenizer.json, a tokenizer.model or a\n"
         "GGUF file. Pieces are printed one a line with \\n, \\t, \\\\ and \\xNN for what is "
         "no\ntext.",
     .options = tokenize_options,
     .option_count = LQ_COUNT_OF(tokenize_options),
     .operand_min = 1,
     .operand_max = 1,
     .run = lq_command_tokenize},
    {.name = "imatrix",
     .operands = "COMMAND",
     .help = "convert, merge, describe and compare importance matrices",
     .children = imatrix_commands,
     .child_count = LQ_COUNT_OF(imatrix_commands)},
    {.name = "profile",
     .operands = "COMMAND",
     .help = "list, show, create and validate profiles",
     .children = profile_commands,
     .child_count = LQ_COUNT_OF(profile_commands)},
    {.name = "quality",
     .operands = "COMMAND",
     .help = "measure the quality of a quantized model",
     .children = quality_commands,
     .child_count = LQ_COUNT_OF(quality_commands)},
    {.name = "completion",
     .operands = "SHELL",
     .help = "print what makes a shell complete words of lqbuild: bash or zsh",
     .details =
         "For bash: lqbuild completion bash > ~/.local/share/bash-completion/completions/lqbuild\n"
         "For zsh, into a folder of $fpath: lqbuild completion zsh > _lqbuild\n"
         "`lqbuild completion targets` prints the artifacts of the recipe, one a line.",
     .operand_min = 1,
     .operand_max = 1,
     .run = lq_command_completion},
    {.name = "help",
     .operands = "[COMMAND...]",
     .help = "show help",
     .options = help_options,
     .option_count = LQ_COUNT_OF(help_options),
     .operand_max = 2,
     .run = lq_command_help},
    {.name = "version", .help = "show the version", .run = lq_command_version},
};
const size_t lq_command_count = LQ_COUNT_OF(lq_commands);

const struct lq_command *lq_command_find(const struct lq_command *commands, size_t count,
                                         const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

const char *lq_command_nearest(const struct lq_command *commands, size_t count, const char *name)
{
    const char *names[COMMANDS_MAX];
    size_t used = 0;
    for (size_t i = 0; i < count && used < COMMANDS_MAX; i++) {
        names[used++] = commands[i].name;
    }
    return lq_text_nearest(name, names, used);
}
