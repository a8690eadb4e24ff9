/* Runs in: both. Purpose: what is reported about bars, and when; output_state.h. */
#define _POSIX_C_SOURCE 200809L
#include "output_state.h"

void mch_output_describe(const struct mch_bar *bar, uint64_t now, struct mch_report *report) {
  uint64_t end = bar->how == MCH_BAR_RUNNING ? now : bar->ended_ns;
  report->event = MCH_REPORT_UPDATE;
  report->how = bar->how;
  report->key = bar->key;
  report->done = bar->done;
  report->total = bar->total;
  report->elapsed_ns = end > bar->started_ns ? end - bar->started_ns : 0;
  report->of_tasks = bar->of_tasks;
  report->running = bar->tasks_running;
  report->failed = bar->tasks_failed;
  report->cancelled = bar->tasks_cancelled;
  report->found = bar->tasks_found;
  report->pace = bar->how == MCH_BAR_RUNNING ? mch_progress_pace(bar, now) : -1;
  report->unit = bar->unit;
  report->runid = bar->runid;
  report->name = mch_progress_name(bar);
  report->name_length = bar->name_length;
  report->task = bar->task_length > 0 ? bar->text + bar->task_at : NULL;
  report->task_length = bar->task_length;
}

/* Is there something to tell about this bar? A line of text is due even if nothing has changed:
 * it says that the task lives. */
int mch_output_to_tell(const struct mch_output *out, struct mch_bar *bar, uint64_t now,
                       struct mch_report *report) {
  uint64_t step = out->mode == MCH_PROGRESS_TEXT ? TEXT_INTERVAL : FRAME_INTERVAL;
  mch_output_describe(bar, now, report);
  if (!bar->told) {
    report->event = MCH_REPORT_START;
    report->how = MCH_BAR_RUNNING;
    report->done = 0;
    return 1;
  }
  if (bar->how != MCH_BAR_RUNNING) {
    report->event = MCH_REPORT_END;
    return 1;
  }
  if (now < bar->told_ns + step)
    return 0;
  mch_progress_sample_at(bar, now);
  mch_output_describe(bar, now, report);
  return out->mode == MCH_PROGRESS_TEXT || bar->done != bar->told_done ||
         bar->total != bar->told_total || bar->tasks_running != bar->told_running;
}

void mch_output_told(struct mch_bar *bar, uint64_t now, const struct mch_report *report) {
  bar->told = 1;
  bar->told_ns = now;
  bar->told_done = report->done;
  bar->told_total = report->total;
  bar->told_running = report->running;
}

static void write_report(struct mch_output *out, const struct mch_report *report) {
  struct mch_buf *to = out->edit.active ? &out->above : &out->sinks[1].unsent;
  double wall = mch_output_wall(out);
  time_t seconds = (time_t)wall;
  struct tm when;
  if (out->mode == MCH_PROGRESS_JSON)
    mch_render_json(to, report, wall);
  else if (localtime_r(&seconds, &when) != NULL)
    mch_render_text(to, report, &when);
}

void mch_output_write_reports(struct mch_output *out, uint64_t now) {
  struct mch_report report;
  struct mch_bar *bar;
  while ((bar = out->progress.ended.first) != NULL) {
    while (mch_output_to_tell(out, bar, now, &report)) {
      write_report(out, &report);
      mch_output_told(bar, now, &report);
      if (report.event == MCH_REPORT_END)
        break;
    }
    mch_progress_drop(&out->progress, bar);
  }
  for (bar = out->progress.running.first; bar != NULL; bar = bar->next) {
    if (bar->waiting || !mch_output_to_tell(out, bar, now, &report))
      continue;
    write_report(out, &report);
    mch_output_told(bar, now, &report);
  }
}
