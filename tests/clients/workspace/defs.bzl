"""Rules of our own: rules_cc cannot be downloaded, and these make one action per file."""

def _run(ctx, mnemonic, outputs, inputs, command, tools = []):
    ctx.actions.run_shell(
        mnemonic = mnemonic,
        outputs = outputs,
        inputs = inputs,
        tools = tools,
        command = command,
        use_default_shell_env = True,
    )

def _c_object_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".o")
    src = ctx.file.src
    _run(
        ctx,
        "CCompile",
        [out],
        [src] + ctx.files.hdrs,
        "%s -c %s -I%s %s -o %s" %
        (ctx.attr.compiler, " ".join(ctx.attr.copts), src.dirname, src.path, out.path),
    )
    return [DefaultInfo(files = depset([out]))]

c_object = rule(
    implementation = _c_object_impl,
    attrs = {
        "src": attr.label(allow_single_file = [".c"]),
        "hdrs": attr.label_list(allow_files = True),
        "compiler": attr.string(),
        "copts": attr.string_list(),
    },
)

def _c_archive_impl(ctx):
    out = ctx.actions.declare_file("lib" + ctx.label.name + ".a")
    paths = " ".join([f.path for f in ctx.files.objects])
    _run(ctx, "CArchive", [out], ctx.files.objects, "ar rcsD %s %s" % (out.path, paths))
    return [DefaultInfo(files = depset([out]))]

c_archive = rule(
    implementation = _c_archive_impl,
    attrs = {"objects": attr.label_list(allow_files = True)},
)

def _c_program_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name)
    paths = " ".join([f.path for f in ctx.files.objects])
    _run(
        ctx,
        "CLink",
        [out],
        ctx.files.objects,
        "%s -o %s %s %s" % (ctx.attr.compiler, out.path, paths, " ".join(ctx.attr.linkopts)),
    )
    return [DefaultInfo(files = depset([out]), executable = out)]

c_program = rule(
    implementation = _c_program_impl,
    attrs = {
        "objects": attr.label_list(allow_files = True),
        "compiler": attr.string(),
        "linkopts": attr.string_list(),
    },
    executable = True,
)

def _tree_impl(ctx):
    out = ctx.actions.declare_directory(ctx.label.name)
    _run(
        ctx,
        "Tree",
        [out],
        [],
        " && ".join([
            "mkdir -p {0}/a/b/c {0}/d",
            "for n in 1 2 3 4 5 6 7 8; do echo file $n > {0}/a/b/c/$n.txt; done",
            "cp {0}/a/b/c/1.txt {0}/d/same-content.txt",
            ": > {0}/d/empty",
            "printf '#!/bin/sh\\necho from the tree\\n' > {0}/a/run.sh",
            "chmod +x {0}/a/run.sh",
            "ln -s ../a/run.sh {0}/d/link.sh",
        ]).format(out.path),
    )
    return [DefaultInfo(files = depset([out]))]

tree = rule(implementation = _tree_impl)

def _tree_user_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".txt")
    folder = ctx.files.tree[0].path
    _run(
        ctx,
        "TreeUser",
        [out],
        ctx.files.tree,
        "(cat %s/a/b/c/*.txt; %s/a/run.sh; %s/d/link.sh; wc -c < %s/d/empty) > %s" %
        (folder, folder, folder, folder, out.path),
    )
    return [DefaultInfo(files = depset([out]))]

tree_user = rule(
    implementation = _tree_user_impl,
    attrs = {"tree": attr.label()},
)

def _noisy_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".txt")
    _run(
        ctx,
        "Noisy",
        [out],
        [],
        "echo said on stdout; echo said on stderr >&2; " +
        # More than what servers keep inline in a result.
        "i=0; while [ $i -lt 2000 ]; do echo line $i of much output; i=$((i+1)); done; " +
        "echo done > " + out.path,
    )
    return [DefaultInfo(files = depset([out]))]

noisy = rule(implementation = _noisy_impl)

def _many_impl(ctx):
    outs = [ctx.actions.declare_file("%s/%d.out" % (ctx.label.name, n)) for n in range(ctx.attr.count)]
    command = " && ".join(["echo output %d > %s" % (n, f.path) for n, f in enumerate(outs)])
    _run(ctx, "Many", outs, [], command)
    return [DefaultInfo(files = depset(outs))]

many = rule(implementation = _many_impl, attrs = {"count": attr.int()})

def _linked_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name)
    src = ctx.file.src
    _run(ctx, "Linked", [out], [src], "ln -s %s %s" % (src.basename, out.path))
    return [DefaultInfo(files = depset([out]))]

linked = rule(
    implementation = _linked_impl,
    attrs = {"src": attr.label(allow_single_file = True)},
)
