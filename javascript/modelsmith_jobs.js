// Starting the jobs of the views beside Merge, and its comparison: the first argument of each event becomes the id of the task or the
// ticket of a question, and the host's progress bar follows the task. Links lead from a report to these views.

(function() {
    "use strict";

    const {root, byId, fieldOf, tell, onTend, wake, followTask, ownTask, takeUp, askAgain, answerAwaited} = window.Modelsmith;
    const pageId = Math.random().toString(36).slice(2);
    const VIEWS = ["convert", "vae", "lora", "difference"];
    // Jobs that make no file.
    const NOTHING_NEW = new Set(["difference"]);
    let asked = 0;
    const noteFields = Object.fromEntries(
        VIEWS.map(view => [view, askAgain("modelsmith_" + view, `modelsmith_${view}_plan_again`)]));

    // gradio hands over the values of the outputs too; only the inputs are to be sent back.
    function inputsOf(view, values) {
        const data = root().querySelector(`.ms-view-data[data-view="${view}"]`);
        return Array.from(values).slice(0, Number(data && data.dataset.inputs) || undefined);
    }

    // The host's own lists are asked to look again, so that the result is there at once.
    function refreshLists() {
        for (const id of ["refresh_sd_model_checkpoint", "forge_refresh_checkpoint", "refresh_sd_vae"]) {
            byId(id)?.click();
        }
    }

    function start(view, values) {
        const args = inputsOf(view, values);
        if (typeof requestProgress !== "function" || typeof randomId !== "function") return args;
        const id = randomId();
        args[0] = id;
        follow(view, id);
        return args;
    }

    function follow(view, id, atEnd) {
        const place = byId(`modelsmith_${view}_progress`);
        const whole = byId(`modelsmith_${view}`) || byId(`modelsmith_${view}_tools`);
        if (place) followTask(view, id, place, whole, () => {
            if (!NOTHING_NEW.has(view)) setTimeout(refreshLists, 300);
            atEnd?.();
        });
    }

    // A job that was started before the page was loaded anew still has its bar and can be stopped, and what it ended
    // with is shown.
    const lookedFor = new Set();

    function tendEarlier() {
        for (const view of VIEWS) {
            if (lookedFor.has(view) || !byId(`modelsmith_${view}_progress`)) continue;
            lookedFor.add(view);
            const show = id => { if (fieldOf(`modelsmith_${view}_asked`)) setTimeout(tell, 300, `modelsmith_${view}_asked`, {ended: id}); };
            takeUp(view, id => follow(view, id, () => show(id)), show);
        }
    }

    function ask(view, values) {
        const args = inputsOf(view, values);
        args[0] = pageId + ":" + (asked += 1);
        noteFields[view]();
        answerAwaited(`modelsmith_${view}_plan`);
        return args;
    }

    // The job's answer has come, which is sooner than its bar knows.
    function after(view, values) {
        wake(`modelsmith_${view}_start`);
        return ask(view, values);
    }

    for (const view of VIEWS) {
        window["modelsmithStart_" + view] = function() { return start(view, arguments); };
        window["modelsmithStop_" + view] = () => [ownTask(view)];
        window["modelsmithAfter_" + view] = function() { return after(view, arguments); };
        window["modelsmithAsk_" + view] = function() { return ask(view, arguments); };
    }

    onTend(tendEarlier);
})();
