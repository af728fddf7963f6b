# The sums of a large set of particles by many jobs: `accumulate` over parts of each half set, then `combine`.
#
#     env/run snakemake -s gsworkbench/experiments/accumulate.smk --config particles=particles.star out=sums chunks=64
#
# ends in sums/half1.npz and sums/half2.npz, which are the same to the last bit for any number of chunks. A job that fails
# or is killed is repeated alone and goes on from its checkpoint. `options` goes to every `accumulate`, as in
# options="--datadir data --sign -1"; mem_mb and runtime (minutes) are those of one job, twice as much at its second
# attempt (docs/use/scale.md says how much a box needs). On a cluster add --profile env/profiles/slurm.
particles = config["particles"]
out = config.get("out", "sums")
chunks = int(config.get("chunks", 8))


def asked(resource, default):
    return lambda wildcards, attempt: attempt * int(config.get(resource, default))


wildcard_constraints:
    half="[12]",
    part=r"\d+",


localrules:
    all,


rule all:
    input:
        [f"{out}/half{half}.npz" for half in (1, 2)],


rule accumulate:
    input:
        particles,
    output:
        temp(f"{out}/parts/half{{half}}-{{part}}of{chunks}.npz"),
    log:
        f"{out}/logs/half{{half}}-{{part}}of{chunks}.log",
    benchmark:
        f"{out}/benchmarks/half{{half}}-{{part}}of{chunks}.tsv"
    params:
        options=config.get("options", ""),
    retries: 2
    resources:
        mem_mb=asked("mem_mb", 5500),
        runtime=asked("runtime", 60),
    shell:
        "TQDM_DISABLE=1 python -m gsworkbench accumulate {input} {params.options} --half-set {wildcards.half}"
        " --part {wildcards.part}/{chunks} --threads {threads} --resume --out {output} > {log} 2>&1"


rule combine:
    input:
        [f"{out}/parts/half{{half}}-{part}of{chunks}.npz" for part in range(1, chunks + 1)],
    output:
        f"{out}/half{{half}}.npz",
    log:
        f"{out}/logs/half{{half}}.log",
    retries: 2
    resources:
        mem_mb=asked("mem_mb", 5500),
        runtime=asked("runtime", 60),
    shell:
        "python -m gsworkbench combine {input} --out {output} > {log} 2>&1"
