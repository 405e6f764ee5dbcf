// Block weights as text and as curves, without a page: reading and writing the text that other mergers use, and the
// tools that bend a row of values. The rules are those of modelsmith/merge/blocks.py.

(function() {
    "use strict";

    const {clamp} = window.Modelsmith;
    const round = (value, places = 4) => Number(value.toFixed(places));
    const isNumber = text => text !== "" && Number.isFinite(Number(text));
    const lerp = (from, to, part) => from + (to - from) * part;

    // 26 values (BASE, IN00-11, M00, OUT00-11) as SDXL's 21 (BASE, IN00-08, M00, OUT00-08, VAE).
    const fold = row => [...row.slice(0, 10), ...row.slice(13, 23), 0];

    // A curve of 25 values at `count` evenly spaced places.
    function spread(curve, count) {
        return Array.from({length: count}, (unused, step) => {
            const place = step * (curve.length - 1) / Math.max(1, count - 1);
            const low = Math.min(Math.floor(place), curve.length - 2);
            return lerp(curve[low], curve[low + 1], place - low);
        });
    }

    function fromList(row, data) {
        const order = data.order;
        if (data.fold && (row.length === 26 || row.length === 25)) {
            const folded = fold(row.length === 26 ? row : [0, ...row]);
            return row.length === 26 ? named(order, folded) : named(order.slice(1), folded.slice(1));
        }
        if (row.length === order.length) return named(order, row);
        if (row.length === order.length - 1 && order[0] === "BASE") {
            return named(data.fold ? order.slice(0, -1) : order.slice(1), row);
        }
        return undefined;
    }

    const named = (names, row) => Object.fromEntries(names.map((name, index) => [name, row[index]]));

    // What the text sets, by block; {} where it is empty, undefined where it cannot be read.
    function parse(text, data) {
        const items = text.split(/[,\n]/).map(item => item.trim()).filter(Boolean);
        const plain = items.filter(item => !item.includes("="));
        let found = {};
        if (plain.length === 1 && !isNumber(plain[0])) {
            const row = data.presets[plain[0]] || data.presets[plain[0].toUpperCase()];
            if (!row) return undefined;
            found = Array.isArray(row) ? named(data.row, row) : {...row};
        } else if (plain.length) {
            if (!plain.every(isNumber)) return undefined;
            found = fromList(plain.map(Number), data);
        }
        for (const item of items.filter(one => one.includes("="))) {
            const [name, value] = item.split("=").map(part => part.trim());
            if (!found || !data.names.has(name.toUpperCase()) || !isNumber(value)) return undefined;
            found[name.toUpperCase()] = Number(value);
        }
        return found;
    }

    // A full row as plain numbers, in the order in which other mergers read them; single blocks as NAME=value. Where a
    // transformer's BASE is set, its text encoders follow that.
    function write(own, data) {
        const row = data.order.map(name => own[name] ?? (data.row.includes(name) ? undefined : own.BASE));
        const whole = row.every(value => value !== undefined);
        const rest = Object.keys(own).filter(name => !whole || !data.order.includes(name));
        const plain = whole ? row.map(value => String(round(value))) : [];
        return [...plain, ...rest.map(name => name + "=" + round(own[name]))].join(",");
    }

    // What somebody copied elsewhere: a line of a preset table, numbers between brackets, tabs or blanks, 26 values
    // for a model with another number of blocks. undefined where it is nothing of the kind.
    function pasted(text, data) {
        const line = text.trim().replace(/^[^\t\n,=]*\t(?=[-\d.])/, "");
        const direct = parse(line, data);
        if (direct && Object.keys(direct).length) return direct;
        const cleaned = line.replace(/["'()[\]{}]/g, " ").trim().split(/[\s,;]+/).join(",");
        const found = parse(cleaned, data);
        if (found && Object.keys(found).length) return found;
        const row = cleaned.split(",").map(Number);
        if (![25, 26].includes(row.length) || !row.every(Number.isFinite)) return undefined;
        const [base, ...run] = data.row;
        const blocks = named(run, spread(row.slice(-25), run.length).map(value => round(value)));
        return row.length === 25 ? blocks : {[base]: round(row[0]), ...blocks};
    }

    const smoothstep = part => part * part * (3 - 2 * part);

    // Each takes a row and gives a new one; the factor is for scaling, the range for what inverting turns around.
    const CURVES = {
        line: row => row.map((unused, at) => lerp(row[0], row[row.length - 1], at / Math.max(1, row.length - 1))),
        ease: row => row.map((unused, at) => {
            return lerp(row[0], row[row.length - 1], smoothstep(at / Math.max(1, row.length - 1)));
        }),
        smooth: row => row.map((value, at) => {
            return (row[Math.max(0, at - 1)] + 2 * value + row[Math.min(row.length - 1, at + 1)]) / 4;
        }),
        mirror: row => row.slice().reverse(),
        invert: (row, range) => row.map(value => range.low + range.high - value),
        scale: (row, range) => row.map(value => clamp(value * range.factor, range.low, range.high)),
    };

    const curve = (name, row, range) => CURVES[name](row, range).map(value => round(value));

    // Moves a group as a whole: every value by the same amount, each kept within the range.
    const shift = (row, by, range) => row.map(value => round(clamp(value + by, range.low, range.high)));

    window.ModelsmithWeights = {parse, write, pasted, curve, shift, round};
})();
