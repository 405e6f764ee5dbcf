// The Merge view's summary and start: tickets for its questions, the host's progress bar, the buttons of the summary,
// and the new file as the webui's checkpoint.

(function() {
    "use strict";

    const {root, byId, tell, pageData, onTend, rest, wake, followTask, ownTask, takeUp, askAgain, answerAwaited} = window.Modelsmith;

    // gradio hands over the values of the outputs too; only the inputs are to be sent back.
    const mergeInputs = values => Array.from(values).slice(0, Number(pageData().mergeInputs) || undefined);

    // Each question for the summary carries a ticket, so that an answer which was overtaken is not shown.
    const pageId = Math.random().toString(36).slice(2);
    let asked = 0;
    const noteFields = askAgain("modelsmith_merge", "modelsmith_plan_again");

    window.modelsmithPlan = function() {
        const args = mergeInputs(arguments);
        args[0] = pageId + ":" + (asked += 1);
        noteFields();
        answerAwaited("modelsmith_plan");
        return args;
    };

    // The merge's answer has come, which is sooner than its bar knows.
    window.modelsmithMerged = function() {
        wake("modelsmith_merge_start");
        return window.modelsmithPlan(...arguments);
    };

    // Two buttons that write something down at once, and rest until it is answered.
    for (const button of ["queue", "recipe"]) {
        window["modelsmithAsk_" + button] = function() {
            rest("modelsmith_merge_" + button);
            return window.modelsmithPlan(...arguments);
        };
        window["modelsmithAnswered_" + button] = () => { wake("modelsmith_merge_" + button); return []; };
    }

    // A folder on a network drive can take seconds to be read; milliseconds.
    const LONGEST_READING = 10000;

    const listRefreshButton = () => byId("refresh_sd_model_checkpoint") || byId("forge_refresh_checkpoint");

    window.modelsmithSubmit = function() {
        const args = mergeInputs(arguments);
        if (typeof requestProgress !== "function" || typeof randomId !== "function") return args;
        const id = randomId();
        args[0] = id;
        follow(id, refreshHost);
        return args;
    };

    window.modelsmithStop_merge = () => [ownTask("merge")];

    function follow(id, atEnd) {
        const place = byId("modelsmith_progress");
        if (place) followTask("merge", id, place, root().querySelector(".ms-merge-view"), atEnd);
    }

    // The host's own list is asked to look again, so that the result is there at once. Where the result is to be chosen,
    // that does it too: two readings of the list at a time disturb each other.
    function refreshHost() {
        const button = listRefreshButton();
        if (button && !toBeChosen()) setTimeout(() => button.click(), 300);
    }

    // A merge that was started before the page was loaded anew: its end is shown here as if it had been started here.
    let lookedFor = false;

    function tendEarlier() {
        if (lookedFor || !byId("modelsmith_progress") || !byId("modelsmith_asked")) return;
        lookedFor = true;
        const show = id => setTimeout(() => tell("modelsmith_asked", {ended: id}), 300);
        takeUp("merge", id => follow(id, () => {
            refreshHost();
            byId("modelsmith_refresh")?.click();
            show(id);
        }), show);
    }

    // The webuis have this function for their own "send checkpoint" links.
    const canChoose = () => typeof selectCheckpoint === "function" && byId("change_checkpoint");

    const toBeChosen = () => Boolean(canChoose() && byId("modelsmith_choose_result")?.querySelector("input")?.checked);

    // The list of names in the webui's selector; another one as soon as it was read anew, undefined where it is not found.
    function offeredNames() {
        const selector = one => one.props?.elem_id === "setting_sd_model_checkpoint" ||
            one.props?.elem_classes?.includes("model_selection");
        return window.gradio_config?.components?.find(selector)?.props.choices;
    }

    // While a webui reads its list anew, the list is empty for a moment, and a name that is missed then becomes another
    // model. So the choice is made when the answer of the reading has come.
    function choose(title) {
        if (!canChoose()) return;
        const button = listRefreshButton(), before = offeredNames(), latest = Date.now() + LONGEST_READING;
        if (!button) return void selectCheckpoint(title);
        button.click();
        (function look() {
            if (offeredNames() !== before || Date.now() > latest) selectCheckpoint(title);
            else setTimeout(look, 50);
        })();
    }

    function tendResult() {
        const place = root().querySelector("#modelsmith_result .ms-choose:not([data-ready])");
        if (!place) return;
        place.dataset.ready = "1";
        place.classList.toggle("ms-usable", Boolean(canChoose()));
        if (toBeChosen()) choose(place.dataset.choose);
    }

    function pressed(event) {
        const button = event.target.closest && event.target.closest("[data-remedy], [data-choose]");
        if (!button || !button.closest("#modelsmith_merge")) return;
        if (button.dataset.choose) choose(button.dataset.choose);
        else tell("modelsmith_asked", {remedy: button.dataset.remedy});
    }

    document.addEventListener("click", pressed);
    onTend(tendResult);
    onTend(tendEarlier);
})();
