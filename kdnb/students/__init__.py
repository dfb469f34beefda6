"""Shipped students: trained networks for any photograph, without the data and the run that they come from."""

from kdnb.students.student import Student, load_student, save_student, shipped, student_kinds

__all__ = ["Student", "load_student", "save_student", "shipped", "student_kinds"]
