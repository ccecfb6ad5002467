"""Pages of lists in the API."""

from rest_framework.pagination import PageNumberPagination


class CustomPagination(PageNumberPagination):
    """Ten entries, or as many as ``paginate_by`` asks for, up to 50."""

    page_size_query_param = "paginate_by"
    max_page_size = 50
