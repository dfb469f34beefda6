"""Shipped students: trained networks for any photograph, without the data and the run that they come from."""

from kdnb.students.shipping import photographs, teachers_answers
from kdnb.students.show import on_photographs, photo_stack
from kdnb.students.student import Student, load_student, save_student, shipped, student_kinds

__all__ = [
    "Student",
    "load_student",
    "on_photographs",
    "photo_stack",
    "photographs",
    "save_student",
    "shipped",
    "student_kinds",
    "teachers_answers",
]
