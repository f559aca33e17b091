"""Reads a workbook as a spreadsheet does, with openpyxl, and prints what it holds as JSON."""

import datetime
import json
import sys

import openpyxl


def cell(it):
    value = it.value
    if isinstance(value, datetime.datetime):
        value = value.isoformat(timespec="milliseconds") + "Z"
    return {"type": it.data_type, "value": value, "quoted": bool(it.quotePrefix), "link": it.hyperlink is not None}


book = openpyxl.load_workbook(sys.argv[1])
print(
    json.dumps(
        {
            sheet.title: {
                "frozen": sheet.freeze_panes,
                "filter": sheet.auto_filter.ref,
                "width": sheet.column_dimensions["B"].width,
                "rows": [[cell(it) for it in row] for row in sheet.iter_rows()],
            }
            for sheet in book.worksheets
        }
    )
)
